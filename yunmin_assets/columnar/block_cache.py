"""A folder of fetched files ("blocks") that never grows beyond a bound, shared by any number of processes.

- Whoever fetches a block holds a lock on `<name>.part` meanwhile. Others who want it wait, and then use it.
- What was fetched is written, and gets its name, under a lock on the folder, after the blocks that were used
  the longest time ago made room. So a file without that ending is whole, and the bound holds at any time.
- A part whose lock nobody holds was left by a killed process and is removed when room is made.

Blocks are named by the hash of their key; other files in the folder are left alone.

Price: a block that is removed while somebody has it open stays on the disk until he closes it, beyond the
bound. The folder must be on a local disk: locks are not reliable on a network.
"""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

BLOCK, PART = ".block", ".block.part"
OWN_NAME = re.compile(r"[0-9a-f]{64}\.block(\.part)?")
LOCK_FILE = ".lock"


class BlockCache:
    """Blocks by key, at most `max_bytes` of them together."""

    def __init__(self, folder: Path, max_bytes: int):
        """Use `folder`, created when it is absent."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._max_bytes = folder, max_bytes

    def open(self, key: str, fetch: Callable[[], bytes]) -> FileIO:
        """The block `key`, opened; fetched when it is not there.

        Raises:
            ValueError: the block is larger than the cache.
            OSError: the folder takes no more.
        """
        path = self._path(key)
        while True:
            try:
                os.utime(path)  # the blocks used last are kept
                return path.open("rb", buffering=0)
            except FileNotFoundError:
                fetched = self._fetch(path, fetch)
                if fetched is not None:
                    return fetched

    def remove(self, key: str) -> None:
        """Forget a block."""
        with self._locked():
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / (hashlib.sha256(key.encode()).hexdigest() + BLOCK)

    def _fetch(self, path: Path, fetch: Callable[[], bytes]) -> FileIO | None:
        """Fetch a block, or wait until somebody else has, and then return None."""
        part = path.with_suffix(PART)
        with part.open("ab", buffering=0) as file, _lock(file):
            if path.exists() or not _is_same_file(file, part):
                return None
            try:
                return self._keep(file, part, path, fetch())
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _keep(self, file: FileIO, part: Path, path: Path, content: bytes) -> FileIO:
        """Write a block, give it its name, and open it before anybody may remove it."""
        if len(content) > self._max_bytes:
            raise ValueError(
                f"the cache {self._folder} may hold {self._max_bytes} bytes, less than one block of "
                f"{len(content)}: raise cache_bytes"
            )
        try:
            with self._locked():
                file.truncate(0)  # a killed process may have left something
                self._make_room(len(content))
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) :]
                part.rename(path)
                return path.open("rb", buffering=0)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the cache {self._folder} did not take a block of {len(content)} bytes ({error.strerror}): make "
                "room on that disk, lower cache_bytes, or choose another folder as cache",
            ) from error

    def _make_room(self, size: int) -> None:
        """Remove the oldest blocks until `size` bytes fit."""
        blocks, used = self._survey()
        for _, path, freed in blocks:
            if used + size <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            used -= freed

    def _survey(self) -> tuple[list[tuple[float, Path, int]], int]:
        """Blocks as (time of last use, path, bytes), the oldest first; bytes of parts as well."""
        blocks, used = [], 0
        for entry in os.scandir(self._folder):
            if not OWN_NAME.fullmatch(entry.name):
                continue
            path, is_part = Path(entry.path), entry.name.endswith(PART)
            try:
                if is_part:
                    _remove_if_abandoned(path)
                status = path.stat()
            except FileNotFoundError:
                continue
            used += status.st_size
            if not is_part:
                blocks.append((status.st_mtime, path, status.st_size))
        return sorted(blocks), used

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / LOCK_FILE).open("wb", buffering=0) as file, _lock(file):
            yield


@contextmanager
def _lock(file: FileIO) -> Iterator[None]:
    """Hold a lock on an open file.

    It is given back expressly: closing would not, while a process that was forked meanwhile has the file open.
    """
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _is_same_file(file: FileIO, path: Path) -> bool:
    """Whether `path` still names the file that was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_if_abandoned(part: Path) -> None:
    """Remove a part unless somebody holds its lock.

    It is removed under that lock: whoever opened it and locks it only then finds that it is no longer there.
    """
    with contextlib.suppress(BlockingIOError), part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()
        fcntl.flock(file, fcntl.LOCK_UN)

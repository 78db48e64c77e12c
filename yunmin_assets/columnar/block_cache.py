"""A folder of fetched blocks that never grows beyond a bound, shared by any number of processes.

- A block is fetched into `<name>.part` and renamed, so a file without that ending is whole.
- Room is made before a block is fetched, by removing the blocks that were used the longest time ago, and taken
  at once by giving the part its full size. That happens under a lock on the folder.
- Whoever fetches a block holds a lock on its part; others who want the block wait for it and then use it.
  The lock of a killed process is gone, and its part is removed when room is needed.

A block that is removed while somebody reads it stays readable to him (and on the disk) until he closes it.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PART = ".part"
LOCK_FILE = ".lock"
SECONDS_BETWEEN_LOOKS = 0.05


class BlockCache:
    """Blocks by name, at most `max_bytes` of them together."""

    def __init__(self, folder: Path, max_bytes: int):
        """Use `folder`, created when it is absent."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._max_bytes = folder, max_bytes

    def open(self, name: str, size: int, fetch: Callable[[], bytes]) -> BinaryIO:
        """The block `name` of `size` bytes, opened; fetched when it is not there.

        Raises:
            ValueError: the block is larger than the cache.
        """
        if size > self._max_bytes:
            raise ValueError(
                f"the cache {self._folder} may hold {self._max_bytes} bytes, less than one block of {size}: "
                "raise cache_bytes"
            )
        path = self._folder / name
        while True:
            try:
                os.utime(path)  # the blocks used last are kept
                return path.open("rb", buffering=0)
            except FileNotFoundError:
                fetched = self._fetch(path, size, fetch)
                if fetched is not None:
                    return fetched

    def remove(self, name: str) -> None:
        """Forget a block."""
        (self._folder / name).unlink(missing_ok=True)

    def _fetch(self, path: Path, size: int, fetch: Callable[[], bytes]) -> BinaryIO | None:
        """Fetch a block, or wait until somebody else has, and then return None."""
        part = path.with_name(path.name + PART)
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() or not _is_same_file(file, part):
            file.close()
            return None
        try:
            self._make_room(file, size)
            rest = memoryview(fetch())
            while rest:
                rest = rest[file.write(rest) :]
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            file.close()
            raise
        fcntl.flock(file, fcntl.LOCK_UN)
        file.seek(0)
        return file

    def _make_room(self, file: BinaryIO, size: int) -> None:
        """Remove old blocks until `size` bytes fit, and take the place."""
        while True:
            with self._locked():
                blocks, used = self._survey()
                while used + size > self._max_bytes and blocks:
                    _, oldest, freed = blocks.pop(0)
                    oldest.unlink(missing_ok=True)
                    used -= freed
                if used + size <= self._max_bytes:
                    file.truncate(size)
                    return
            time.sleep(SECONDS_BETWEEN_LOOKS)  # others are fetching; they will be done

    def _survey(self) -> tuple[list[tuple[float, Path, int]], int]:
        """Whole blocks as (time of last use, path, bytes), the oldest first; bytes of all files."""
        blocks, used = [], 0
        for entry in os.scandir(self._folder):
            path = Path(entry.path)
            try:
                if path.suffix == PART and _is_abandoned(path):
                    path.unlink()
                    continue
                status = entry.stat()
            except FileNotFoundError:
                continue  # somebody finished it meanwhile
            used += status.st_size
            if path.suffix != PART and path.name != LOCK_FILE:
                blocks.append((status.st_mtime, path, status.st_size))
        return sorted(blocks), used

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / LOCK_FILE).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _is_same_file(file: BinaryIO, path: Path) -> bool:
    """Whether `path` still names the file that was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _is_abandoned(part: Path) -> bool:
    """Whether nobody holds the lock of a part any more."""
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True

"""The shards of a packed data set in S3, or wherever else fsspec reaches, through a bounded local cache.

- Fetched in blocks of about 16 MB of tokens (see `shard_index.block_starts`): one range GET each.
- What is fetched is compared with its length and checksums before it enters the cache, pages once more when
  they are read.
- What fails is tried again for about a minute, after a pause that doubles each time, and a warning is logged.
  What is absent, forbidden or asked for wrongly fails at once.
- The next window's blocks are fetched while the present one is trained on.

Blocks and indexes are named by the hash of their content, so processes and data sets share them.

Price: the cache, 16 MB of memory for each of four transfers at a time, and on the disk what is still open when
it is removed from the cache: per process and data set up to 16 blocks of 16 MB, and the indexes.
"""

import bisect
import errno
import hashlib
import logging
import os
import random
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray
from upath import UPath

from yunmin_assets.columnar.block_cache import BlockCache
from yunmin_assets.columnar.manifest import MANIFEST_FILE, PackManifest
from yunmin_assets.columnar.open_files import OpenFile
from yunmin_assets.columnar.page_reader import DamagedFileError
from yunmin_assets.columnar.shard_index import ShardIndex, block_starts, check_index, index_name

DEFAULT_CACHE = "~/.cache/yunmin_efficientdata/blocks"
DEFAULT_CACHE_BYTES = 8 * 1024**3
TRANSFERS = 4
"""Blocks that are fetched at the same time."""
OPEN_BLOCKS = 16
ATTEMPTS = 6
LAST_ATTEMPT_SECONDS = 60
"""No attempt begins later than so long after the first."""
FIRST_PAUSE_SECONDS = 0.2
"""Before the second attempt; doubled for each further one, less up to a half at random."""
S3_CONFIG = {"connect_timeout": 5, "read_timeout": 10, "retries": {"total_max_attempts": 1}}
"""For botocore: whoever does not answer must not hold up what is repeated here anyway."""
PERMANENT_ERRORS = (PermissionError, ValueError, TypeError, ImportError)
PERMANENT_ERROR_NUMBERS = (errno.EINVAL, errno.ENAMETOOLONG)
"""What s3fs makes of the answer 400 to a wrong bucket, region or signature."""
PERMANENT_S3_ERRORS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "ParamValidationError",
)
"""By name, so that botocore need not be installed for other stores."""

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Block(NamedTuple):
    """Bytes begin … end - 1 of a shard; whole pages."""

    begin: int
    end: int


class RemoteShards:
    """`ShardFiles` of a remote prefix."""

    def __init__(
        self,
        path: UPath,
        *,
        cache: Path | str = DEFAULT_CACHE,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        storage_options: Mapping[str, Any] | None = None,
    ):
        """Read the manifest and all indexes.

        Args:
            path: for instance `s3://bucket/prefix`; a `UPath` carries its own options.
            cache: folder on a local disk for blocks and indexes, shared with other processes.
            cache_bytes: its bound; should hold the blocks of two windows.
            storage_options: for fsspec, for instance `{"client_kwargs": {"endpoint_url": …}}`.

        Raises:
            FileNotFoundError: the manifest, a shard or its index is missing.
            DamagedFileError: one of them is damaged.
            ValueError: the shards were packed without indexes, or an index is larger than the cache.
            PermissionError: the store refuses.
            OSError: the store did not answer, or did not understand.
        """
        self._root = _with_short_waits(UPath(path, **(storage_options or {})))
        self._cache = BlockCache(Path(cache).expanduser(), cache_bytes)
        self.manifest = self._read_manifest()
        with ThreadPoolExecutor(TRANSFERS) as pool:
            self._indexes = list(pool.map(self._read_index, range(len(self.manifest.files))))
        self._blocks = [_blocks(index, self.manifest.row_bytes) for index in self._indexes]
        self._process = 0
        self._check_process()

    def open_index(self, shard: int) -> ShardIndex:
        """See `ShardFiles`."""
        return self._indexes[shard]

    def read(self, shard: int, offset: int, target: memoryview) -> int:
        """See `ShardFiles`."""
        self._check_process()
        block = self._block_at(shard, offset)
        return os.preadv(self._file(shard, block).fileno(), [target], offset - block.begin)

    def will_need(self, shard: int, offsets: NDArray[np.int64], sizes: NDArray[np.int32]) -> None:
        """Begin to fetch the blocks."""
        self._check_process()
        blocks = {self._block_at(shard, offset) for offset in offsets.tolist()}
        with self._lock:
            for block in sorted(blocks):
                self._begin(shard, block)

    def forget(self, shard: int, offset: int) -> bool:
        """See `ShardFiles`. A block is dropped once; that its copy is damaged again is an error."""
        self._check_process()
        block = self._block_at(shard, offset)
        with self._lock:
            if (shard, block) in self._dropped:
                return False
            self._dropped.add((shard, block))
            self._opened.pop((shard, block), None)
        self._cache.remove(self._key(shard, block))
        return True

    def name(self, shard: int) -> str:
        """See `ShardFiles`."""
        return str(self._root / self.manifest.files[shard].name)

    def _check_process(self) -> None:
        """Start anew after a fork: threads stay with the parent process, and it may hold the lock."""
        if os.getpid() == self._process:
            return
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="block-fetcher")
        self._opened: OrderedDict[tuple[int, Block], Future[BinaryIO]] = OrderedDict()
        self._dropped: set[tuple[int, Block]] = set()

    def _block_at(self, shard: int, offset: int) -> Block:
        """The block that holds a byte of a shard."""
        blocks = self._blocks[shard]
        return blocks[bisect.bisect_right(blocks, offset, key=lambda block: block.begin) - 1]

    def _file(self, shard: int, block: Block) -> BinaryIO:
        """A block, opened."""
        with self._lock:
            opened = self._begin(shard, block)
        try:
            return opened.result()
        except BaseException:
            with self._lock:  # another try may succeed
                self._opened.pop((shard, block), None)
            raise

    def _begin(self, shard: int, block: Block) -> "Future[BinaryIO]":
        """A block, opened or on its way; the one used the longest time ago is closed."""
        key = (shard, block)
        if key not in self._opened:
            self._opened[key] = self._pool.submit(
                self._cache.open, self._key(shard, block), lambda: self._fetch(shard, block)
            )
            if len(self._opened) > OPEN_BLOCKS:
                self._opened.popitem(last=False)
        self._opened.move_to_end(key)
        return self._opened[key]

    def _key(self, shard: int, block: Block) -> str:
        """What the cache calls a block."""
        return f"{self.manifest.files[shard].sha256} {block.begin} {block.end}"

    def _fetch(self, shard: int, block: Block) -> bytes:
        """The bytes of a block, every page of which is as it was written."""
        uri, wanted = self.name(shard), block.end - block.begin

        def attempt() -> bytes:
            path = self._path(self.manifest.files[shard].name)
            content = path.fs.cat_file(path.path, start=block.begin, end=block.end)
            if len(content) != wanted:
                problem = f"the store sent {len(content)} of {wanted} bytes"
                raise DamagedFileError(uri, block.begin + len(content), problem)
            self._check_pages(shard, block, content)
            return content

        return _tried(f"{uri}, bytes {block.begin} to {block.end - 1}", attempt)

    def _check_pages(self, shard: int, block: Block, content: bytes) -> None:
        index, view = self._indexes[shard], memoryview(content)
        first, after_last = np.searchsorted(index.offset, [block.begin, block.end]).tolist()
        for page in range(first, after_last):
            start = int(index.offset[page]) - block.begin
            if crc32(view[start : start + int(index.size[page])]) != index.checksum[page]:
                first_row = index.first_row(page)
                rows = f"rows {first_row} to {first_row + int(index.rows[page]) - 1}"
                problem = f"page {page} ({rows}) does not match its checksum"
                raise DamagedFileError(self.name(shard), int(index.offset[page]), problem)

    def _read_manifest(self) -> PackManifest:
        uri = str(self._root / MANIFEST_FILE)
        return _tried(uri, lambda: PackManifest.parse(self._content(MANIFEST_FILE), uri))

    def _read_index(self, shard: int) -> ShardIndex:
        entry = self.manifest.files[shard]
        uri = self.name(shard)
        if entry.index_sha256 is None:
            raise ValueError(f"{uri} was packed without a page index: pack it again, or copy it to a folder")
        found_bytes = _tried(uri, lambda: self._bytes(entry.name))
        if found_bytes != entry.bytes:
            problem = f"the file has {found_bytes} of the {entry.bytes} bytes in the manifest"
            raise DamagedFileError(uri, min(found_bytes, entry.bytes), problem)
        with self._index_file(index_name(entry.name), entry.index_sha256) as file:
            opened = OpenFile(file.name, os.dup(file.fileno()))
        return ShardIndex.read(lambda: opened)

    def _index_file(self, name: str, sha256: str) -> FileIO:
        """An index in the cache, as the manifest says; a copy that was damaged there is fetched again."""
        uri = str(self._root / name)

        def attempt() -> bytes:
            content = self._content(name)
            check_index(uri, content, sha256)
            return content

        file = self._cache.open(sha256, lambda: _tried(uri, attempt))
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            file.close()
            self._cache.remove(sha256)
            file = self._cache.open(sha256, lambda: _tried(uri, attempt))
        return file

    def _content(self, name: str) -> bytes:
        path = self._path(name)
        return path.fs.cat_file(path.path)

    def _bytes(self, name: str) -> int:
        path = self._path(name)
        return path.fs.info(path.path, refresh=True)["size"]

    def _path(self, name: str) -> UPath:
        """A file of the data set, with a file system for this process and thread."""
        path = self._root / name
        if _is_s3(path):
            path.fs.retries = 1  # s3fs would repeat five times what is repeated here
        return path


def warn_of_small_cache(stored_bytes: int, cache_bytes: int = DEFAULT_CACHE_BYTES, **_: Any) -> None:
    """Warn that single pages are read in random order from blocks that the cache cannot keep.

    Args:
        stored_bytes: of the remote shards.
        cache_bytes: with the other options of `RemoteShards`.
    """
    if stored_bytes > cache_bytes:
        warnings.warn(
            f"shuffle_blocks=False with {stored_bytes:,} bytes of remote shards and a cache of {cache_bytes:,}: "
            "an epoch fetches the same blocks many times. Leave shuffle_blocks out, or raise cache_bytes.",
            stacklevel=3,
        )


def _is_s3(path: UPath) -> bool:
    return path.protocol in ("s3", "s3a")


def _with_short_waits(path: UPath) -> UPath:
    """The same path; in S3 with time limits where the user has set none, and without repetitions beside ours."""
    if not _is_s3(path):
        return path
    given = path.storage_options.get("config_kwargs", {})
    return UPath(path, config_kwargs={**S3_CONFIG, **given, "retries": S3_CONFIG["retries"]})


def _blocks(index: ShardIndex, row_bytes: int) -> list[Block]:
    """The blocks of a shard, in their order."""
    first_pages = block_starts(index.rows, row_bytes)
    last_pages = np.append(first_pages[1:], len(index.rows)) - 1
    ends = index.offset[last_pages] + index.size[last_pages]
    return [Block(*bounds) for bounds in zip(index.offset[first_pages].tolist(), ends.tolist(), strict=True)]


def _tried(what: str, action: Callable[[], Result]) -> Result:
    """Do something remote; when it fails, pause and do it again, unless that is of no use."""
    started = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except Exception as error:  # stores, their clients and proxies fail in many ways
            if _is_permanent(error):
                raise _named(what, "cannot be read", error) from error
            pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1)
            seconds = time.monotonic() - started
            if attempt == ATTEMPTS or seconds + pause > LAST_ATTEMPT_SECONDS:
                if isinstance(error, DamagedFileError):
                    raise
                tried = f"could not be read in {attempt} attempts and {seconds:.0f} seconds"
                raise _named(what, tried, error) from error
            logger.warning("%s: attempt %d of %d failed: %s", what, attempt, ATTEMPTS, _text(error))
        time.sleep(pause)
    raise AssertionError("unreachable")


def _is_permanent(error: Exception) -> bool:
    """Whether another attempt would fail in the same way."""
    if isinstance(error, DamagedFileError):  # perhaps on its way
        return False
    return (
        isinstance(error, (FileNotFoundError, *PERMANENT_ERRORS))
        or getattr(error, "errno", None) in PERMANENT_ERROR_NUMBERS
        or type(error).__name__ in PERMANENT_S3_ERRORS
    )


def _named(what: str, problem: str, error: Exception) -> Exception:
    """An error that says what was to be read."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{what} is missing")
    kind = PermissionError if isinstance(error, PermissionError) else OSError
    return kind(f"{what} {problem}: {_text(error)}")


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

"""The shards of a packed data set in S3, or wherever else fsspec reaches, through a bounded local cache.

- Fetched in blocks of about 16 MB of tokens (see `shard_index.block_starts`): one range GET each.
- The checksum of every page is verified before a block enters the cache, and again when the page is read.
- What fails is tried again, after a pause that doubles each time. What is absent or forbidden fails at once.
- The next window's blocks are fetched while the present one is trained on.

Blocks are named by the hash of their shard's content, so processes and data sets share them.

Price: the cache, and 16 MB of memory for each of four transfers at a time.
"""

import hashlib
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray
from upath import UPath

from yunmin_assets.columnar.block_cache import BlockCache
from yunmin_assets.columnar.manifest import MANIFEST_FILE, PackManifest
from yunmin_assets.columnar.page_reader import DamagedFileError
from yunmin_assets.columnar.shard_index import (
    ShardIndex,
    block_starts,
    check_index,
    index_from_bytes,
    index_name,
)

DEFAULT_CACHE = "~/.cache/yunmin_efficientdata/blocks"
DEFAULT_CACHE_BYTES = 8 * 1024**3
TRANSFERS = 4
"""Blocks that are fetched at the same time."""
OPEN_BLOCKS = 16
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.2
"""Before the second attempt; doubled for each further one, less up to a half at random."""

Result = TypeVar("Result")


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
            cache: local folder for the blocks, shared with other processes.
            cache_bytes: its bound; should hold the blocks of two windows.
            storage_options: for fsspec, for instance `{"client_kwargs": {"endpoint_url": …}}`.

        Raises:
            FileNotFoundError: the manifest, a shard or its index is missing.
            DamagedFileError: one of them is damaged.
            ValueError: the shards were packed without indexes.
            OSError: the store did not answer.
        """
        self._root = UPath(path, **(storage_options or {}))
        manifest_path = self._root / MANIFEST_FILE
        content = _tried(str(manifest_path), lambda: manifest_path.fs.cat_file(manifest_path.path))
        self.manifest = PackManifest.parse(content, str(manifest_path))
        with ThreadPoolExecutor(TRANSFERS) as pool:
            self._indexes = list(pool.map(self._read_index, range(len(self.manifest.files))))
        self._blocks = [_blocks(index, self.manifest.row_bytes) for index in self._indexes]
        self._cache = BlockCache(Path(cache).expanduser(), cache_bytes)
        self._process = 0
        self._check_process()

    def open_index(self, shard: int) -> ShardIndex:
        """See `ShardFiles`."""
        return self._indexes[shard]

    def read(self, shard: int, offset: int, target: memoryview) -> int:
        """See `ShardFiles`."""
        self._check_process()
        begins = self._blocks[shard][0]
        block = int(np.searchsorted(begins, offset, side="right")) - 1
        file = self._block(shard, block)
        return os.preadv(file.fileno(), [target], offset - int(begins[block]))

    def will_need(self, shard: int, offsets: NDArray[np.int64], sizes: NDArray[np.int32]) -> None:
        """Begin to fetch the blocks."""
        self._check_process()
        blocks = np.unique(np.searchsorted(self._blocks[shard][0], offsets, side="right") - 1)
        with self._lock:
            for block in blocks.tolist():
                self._begin(shard, block)

    def forget(self, shard: int, offset: int) -> bool:
        """See `ShardFiles`. A block is dropped once; that its copy is damaged again is an error."""
        self._check_process()
        block = int(np.searchsorted(self._blocks[shard][0], offset, side="right")) - 1
        with self._lock:
            if (shard, block) in self._dropped:
                return False
            self._dropped.add((shard, block))
            self._open.pop((shard, block), None)
        self._cache.remove(self._block_name(shard, block))
        return True

    def name(self, shard: int) -> str:
        """See `ShardFiles`."""
        return str(self._root / self.manifest.files[shard].name)

    def close(self) -> None:
        """See `ShardFiles`."""
        self._pool.shutdown(cancel_futures=True)
        self._open.clear()

    def _check_process(self) -> None:
        """Start anew after a fork: threads stay with the parent process, and it may hold the lock."""
        if os.getpid() == self._process:
            return
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="block-fetcher")
        self._open: OrderedDict[tuple[int, int], Future[BinaryIO]] = OrderedDict()
        self._dropped: set[tuple[int, int]] = set()

    def _block(self, shard: int, block: int) -> BinaryIO:
        with self._lock:
            opened = self._begin(shard, block)
        try:
            return opened.result()
        except BaseException:
            with self._lock:  # another try may succeed
                self._open.pop((shard, block), None)
            raise

    def _begin(self, shard: int, block: int) -> "Future[BinaryIO]":
        """The block, opened or on its way; the one used the longest time ago is closed."""
        key = (shard, block)
        if key not in self._open:
            self._open[key] = self._pool.submit(self._open_block, shard, block)
            if len(self._open) > OPEN_BLOCKS:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return self._open[key]

    def _open_block(self, shard: int, block: int) -> BinaryIO:
        begin, end = (int(bounds[block]) for bounds in self._blocks[shard])
        return self._cache.open(
            self._block_name(shard, block), end - begin, lambda: self._fetch(shard, begin, end)
        )

    def _fetch(self, shard: int, begin: int, end: int) -> bytes:
        """The bytes begin … end - 1 of a shard, every page of which is as it was written."""
        path = self._root / self.manifest.files[shard].name

        def attempt() -> bytes:
            content = path.fs.cat_file(path.path, start=begin, end=end)
            self._check(shard, begin, content)
            return content

        return _tried(f"{path}, bytes {begin} to {end - 1}", attempt)

    def _check(self, shard: int, begin: int, content: bytes) -> None:
        index, view = self._indexes[shard], memoryview(content)
        first = int(np.searchsorted(index.offset, begin))
        for page in range(first, len(index.offset)):
            start = int(index.offset[page]) - begin
            if start >= len(content):
                break
            if crc32(view[start : start + int(index.size[page])]) != index.checksum[page]:
                first_row = index.first_row(page)
                rows = f"rows {first_row} to {first_row + int(index.rows[page]) - 1}"
                problem = f"page {page} ({rows}) does not match its checksum"
                raise DamagedFileError(self.name(shard), int(index.offset[page]), problem)

    def _read_index(self, shard: int) -> ShardIndex:
        entry = self.manifest.files[shard]
        path, index_path = self._root / entry.name, self._root / index_name(entry.name)
        if entry.index_sha256 is None:
            raise ValueError(f"{path} was packed without a page index: pack it again, or copy it to a folder")
        found_bytes = _tried(str(path), lambda: path.fs.info(path.path, refresh=True)["size"])
        if found_bytes != entry.bytes:
            problem = f"the file has {found_bytes} of the {entry.bytes} bytes in the manifest"
            raise DamagedFileError(str(path), min(found_bytes, entry.bytes), problem)
        content = _tried(str(index_path), lambda: index_path.fs.cat_file(index_path.path))
        check_index(str(index_path), content, entry.index_sha256)
        return index_from_bytes(content)

    def _block_name(self, shard: int, block: int) -> str:
        begin, end = (int(bounds[block]) for bounds in self._blocks[shard])
        return hashlib.sha256(f"{self.manifest.files[shard].sha256} {begin} {end}".encode()).hexdigest()


def _blocks(index: ShardIndex, row_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte of each block of a shard, and the byte after its last one."""
    first_pages = block_starts(index.rows, row_bytes)
    last_pages = np.append(first_pages[1:], len(index.rows)) - 1
    return index.offset[first_pages], index.offset[last_pages] + index.size[last_pages]


def _tried(what: str, action: Callable[[], Result]) -> Result:
    """Do something remote; when it fails, pause and do it again."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{what} is missing") from error
        except PermissionError:
            raise
        except Exception as error:  # stores, their clients and proxies fail in many ways
            if attempt + 1 == ATTEMPTS:
                if isinstance(error, DamagedFileError):
                    raise
                raise OSError(f"{what} could not be read in {ATTEMPTS} attempts: {error}") from error
        time.sleep(FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1))
    raise AssertionError("unreachable")

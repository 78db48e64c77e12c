"""The rows of a packed data set by page, whatever folder or bucket it lies in.

Only indexes are read when a store is opened. A page is read, checked against the CRC32 of its payload, and
decompressed when it is asked for.

Price: 32 bytes of memory per page.
"""

import bisect
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
import zstandard
from isal.isal_zlib import crc32
from numpy.typing import NDArray
from upath import UPath

from yunmin_assets.columnar.local_shards import LocalShards
from yunmin_assets.columnar.manifest import PackManifest, ShardEntry
from yunmin_assets.columnar.page_reader import DamagedFileError
from yunmin_assets.columnar.shard_index import ShardIndex, block_starts


class ShardFiles(Protocol):
    """Where the bytes of a data set come from; see local_shards and remote_shards."""

    manifest: PackManifest

    def open_index(self, shard: int) -> ShardIndex:
        """The index of a shard, by its number in the manifest."""

    def read(self, shard: int, offset: int, target: memoryview) -> int:
        """Fill `target` with the bytes of a shard from `offset` on; return how many there were."""

    def will_need(self, shard: int, offsets: NDArray[np.int64], sizes: NDArray[np.int32]) -> None:
        """Pieces of a shard that will be read soon, in ascending order."""

    def forget(self, shard: int, offset: int) -> bool:
        """Drop a copy of the bytes at `offset`; false where there are no copies."""

    def name(self, shard: int) -> str:
        """What to call a shard in a message."""


class PageBuffer(NamedTuple):
    """What a thread needs to read pages."""

    memory: memoryview
    decompressor: zstandard.ZstdDecompressor | None


class Page(NamedTuple):
    """A page that was read."""

    tokens: NDArray
    """uint16 or uint32 [rows, seq_len + 1], read-only; valid until the buffer is used again."""
    starts: NDArray[np.uint32]
    """Document starts: row in the page × seq_len + input position."""
    padding: NDArray[np.uint32] | None
    """[rows] how many tokens at each row's end are padding; None when no row has any, as in all pages but one."""
    domains: NDArray[np.uint16] | None
    """[rows] places in the store's `domains`; None when the data set has only one domain."""


class PackedStore:
    """Random access to the pages of all shards of a packed data set, counted through from 0.

    Threads may read at the same time, each with a `PageBuffer` of its own.

    Attributes:
        manifest: what the folder's `manifest.json` says.
        domains: names of the domains, sorted.
        page_rows: int32 [pages] rows of each page.
        blocks: int64 [blocks] first page of each block (see `shard_index.block_starts`).
    """

    def __init__(self, files: ShardFiles):
        """Read the index of every shard.

        Raises:
            FileNotFoundError: a shard or its index is missing.
            DamagedFileError: a shard or its index is damaged, or is not the one in the manifest.
            ValueError: the data set, or one of its domains, has no rows.
        """
        self._files = files
        self.manifest = manifest = files.manifest
        self.domains = sorted(manifest.domains)
        self._indexes = [self._open(shard, entry) for shard, entry in enumerate(manifest.files)]
        self.page_rows = np.concatenate([index.rows for index in self._indexes])
        pages_of_shards = [len(index.rows) for index in self._indexes]
        self._first_pages = np.cumsum([0, *pages_of_shards]).tolist()
        self.blocks = np.concatenate(
            [
                first + block_starts(index.rows, manifest.row_bytes)
                for first, index in zip(self._first_pages, self._indexes, strict=False)
            ]
        )
        self._domain_numbers = [self._numbers_of_domains(shard) for shard in range(len(self._indexes))]
        self._padded_page, self._padded_row = self._place_of_padding()
        self._largest_page = max(int(index.size.max()) for index in self._indexes)

    def buffer(self) -> "PageBuffer":
        """Memory that a thread reads pages into."""
        decompressor = zstandard.ZstdDecompressor() if self.manifest.compression == "zstd" else None
        return PageBuffer(memoryview(bytearray(self._largest_page)), decompressor)

    def read_page(self, page: int, buffer: "PageBuffer") -> Page:
        """Read and check a page.

        Raises:
            DamagedFileError: the page's bytes are not those that were written.
        """
        shard = bisect.bisect_right(self._first_pages, page) - 1
        index, number = self._indexes[shard], page - self._first_pages[shard]
        payload = self._checked_payload(shard, index, number, buffer)
        rows = int(index.rows[number])
        tokens = np.frombuffer(payload, self.manifest.token_type).reshape(rows, -1)
        padding = domains = None
        if page == self._padded_page:
            padding = np.zeros(rows, np.uint32)
            padding[self._padded_row] = self.manifest.padding_tokens
        if len(self.domains) > 1:
            numbers = index.domain_numbers(index.first_row(number), rows)
            domains = self._domain_numbers[shard][numbers]
        return Page(tokens, index.starts(number), padding, domains)

    def will_need(self, pages: NDArray[np.int64]) -> None:
        """Say which pages will be read soon, so that the disk or network can begin."""
        pages = np.sort(pages)
        shards = np.searchsorted(self._first_pages, pages, side="right") - 1
        for shard in np.unique(shards).tolist():
            index, numbers = self._indexes[shard], pages[shards == shard] - self._first_pages[shard]
            self._files.will_need(shard, index.offset[numbers], index.size[numbers])

    def _checked_payload(
        self, shard: int, index: ShardIndex, number: int, buffer: "PageBuffer"
    ) -> bytes | memoryview:
        """A page's payload, decompressed."""
        offset, size = int(index.offset[number]), int(index.size[number])
        target = buffer.memory[:size]
        while True:
            found = self._files.read(shard, offset, target)
            if found == size and crc32(target) == index.checksum[number]:
                break
            if not self._files.forget(shard, offset):  # else a damaged copy is gone: read once more
                problem = "does not match its checksum" if found == size else f"ends after {found} bytes"
                self._fail_page(shard, number, problem)
        if buffer.decompressor is None:
            return target
        payload_bytes = int(index.rows[number]) * self.manifest.row_bytes
        return buffer.decompressor.decompress(target, max_output_size=payload_bytes)

    def _fail_page(self, shard: int, number: int, problem: str) -> NoReturn:
        index = self._indexes[shard]
        first_row, offset = index.first_row(number), int(index.offset[number])
        rows = f"rows {first_row} to {first_row + int(index.rows[number]) - 1}"
        raise DamagedFileError(self._files.name(shard), offset, f"page {number} ({rows}) {problem}")

    def _open(self, shard: int, entry: ShardEntry) -> ShardIndex:
        index = self._files.open_index(shard)
        found = int(index.rows.sum())
        if found != entry.rows or len(index.offset) == 0:
            raise DamagedFileError(self._files.name(shard), 0, f"{found} rows instead of {entry.rows}")
        unknown = set(index.domains) - set(self.domains)
        if unknown:
            problem = f"domains {sorted(unknown)} are not in the manifest"
            raise DamagedFileError(self._files.name(shard), 0, problem)
        return index

    def _place_of_padding(self) -> tuple[int | None, int]:
        """The page of the padded row and its number in it; None where there is no padding."""
        row = self.manifest.place_of_padding()
        if row is None:
            return None, 0
        ends = np.cumsum(self.page_rows, dtype=np.int64)
        page = int(np.searchsorted(ends, row, side="right"))
        return page, row - int(ends[page] - self.page_rows[page])

    def _numbers_of_domains(self, shard: int) -> NDArray[np.uint16]:
        """For each domain of a shard its place in `domains`."""
        return np.array([self.domains.index(name) for name in self._indexes[shard].domains], np.uint16)


def open_store(path: Path | UPath | str, **remote: Any) -> PackedStore:
    """Open the packed data set of a folder, or of an `s3://` prefix (or any other that fsspec knows).

    Args:
        remote: options of `RemoteShards`.

    Raises:
        FileNotFoundError: the manifest, a shard or its index is missing.
        DamagedFileError: one of them is damaged.
        ValueError: the data set, or one of its domains, has no rows.
    """
    if "://" not in str(path):
        files: ShardFiles = LocalShards(Path(str(path)))
    else:
        from yunmin_assets.columnar.remote_shards import RemoteShards

        files = RemoteShards(UPath(path), **remote)
    empty = [name for name, rows in files.manifest.domains.items() if rows == 0]
    if files.manifest.rows == 0 or empty:
        which = f"; the domains {empty} are empty" if empty else ""
        raise ValueError(f"{path}: the packed data set has no rows{which}")
    return PackedStore(files)

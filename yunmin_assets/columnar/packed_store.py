"""The rows of a packed data set by page: shards, their page indexes, document starts and domains.

Token pages are read when asked for. `doc_start` and `domain` are small and are read whole when the store is
opened.

Price: 20 bytes of memory per page, about 10 per row and 2 per document; one open file per shard.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from yunmin_assets.columnar.manifest import PackManifest, ShardEntry
from yunmin_assets.columnar.page_reader import DamagedFileError, PageReader
from yunmin_assets.columnar.shard_writer import DOC_START, DOMAIN


class PackedStore:
    """Random access to the pages of all shards of a packed data set, counted through from 0.

    Attributes:
        manifest: what the folder's `manifest.json` says.
        page_rows: int32 [pages] rows of each page.
        page_first_row: int64 [pages] number of each page's first row in the data set.
    """

    def __init__(self, folder: Path):
        """Open every shard and read its index.

        Raises:
            FileNotFoundError: the manifest or a shard is missing.
            DamagedFileError: a shard is truncated or damaged, or is not the one in the manifest.
            ValueError: the data set has no rows.
        """
        self.manifest = PackManifest.read(folder)
        if self.manifest.rows == 0:
            raise ValueError(f"{folder}: the packed data set has no rows")
        self._readers = [_open_shard(folder, entry, self.manifest) for entry in self.manifest.files]
        indexes = [reader.index for reader in self._readers]
        pages_of_shards = [len(index.rows) for index in indexes]
        self.page_rows = np.concatenate([index.rows for index in indexes])
        self.page_first_row = np.cumsum(self.page_rows, dtype=np.int64) - self.page_rows
        self._shard_of_page = np.repeat(np.arange(len(indexes), dtype=np.int32), pages_of_shards)
        self._first_page = np.cumsum([0, *pages_of_shards])
        labels = [_read_labels(reader, self.manifest) for reader in self._readers]
        self._starts = np.concatenate([starts for starts, _, _ in labels])
        self._starts_end = np.cumsum(np.concatenate([counts for _, counts, _ in labels]), dtype=np.int64)
        self._domain_of_row = np.concatenate([domains for _, _, domains in labels])
        self._domains = sorted(self.manifest.domains)

    def read_page(self, page: int) -> NDArray:
        """Tokens of a page, uint16 or uint32 [rows, seq_len + 1], read-only.

        Raises:
            DamagedFileError: the page's bytes are not those that were written.
        """
        shard = self._shard_of_page[page]
        rows = self._readers[shard].read_page(page - self._first_page[shard])
        return rows.view(self.manifest.token_type)

    def document_starts(self, row: int) -> NDArray[np.int32]:
        """Input positions, 0 … seq_len - 1, of a row at which a document starts."""
        begin = self._starts_end[row - 1] if row else 0
        return self._starts[begin : self._starts_end[row]]

    def domain(self, row: int) -> str:
        """Domain of a row."""
        return self._domains[self._domain_of_row[row]]


def _open_shard(folder: Path, entry: ShardEntry, manifest: PackManifest) -> PageReader:
    path = folder / entry.name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the manifest lists it with {entry.rows} rows")
    found_bytes = path.stat().st_size
    if found_bytes != entry.bytes:
        problem = f"the file has {found_bytes} of the {entry.bytes} bytes in the manifest"
        raise DamagedFileError(path, min(found_bytes, entry.bytes), problem)
    reader = PageReader(path)
    found = (reader.rows, reader.index.row_bytes)
    if found != (entry.rows, manifest.row_bytes):
        wanted = f"{entry.rows} rows of {manifest.row_bytes} bytes"
        raise DamagedFileError(path, 0, f"{found[0]} rows of {found[1]} bytes instead of {wanted}")
    return reader


def _read_labels(
    reader: PageReader, manifest: PackManifest
) -> tuple[NDArray, NDArray[np.int32], NDArray[np.int16]]:
    """All document starts of a shard, their number in each row, and each row's domain as a number."""
    known_domains = pa.array(sorted(manifest.domains), pa.string())
    try:
        file = pq.ParquetFile(reader.path, page_checksum_verification=True)
        table = file.read([DOC_START, DOMAIN], use_threads=False)
        lists = table[DOC_START].combine_chunks()
        starts, counts = lists.flatten().to_numpy(), np.diff(lists.offsets.to_numpy())
        codes = pc.index_in(table[DOMAIN].combine_chunks(), known_domains)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        # pyarrow checks the pages; damaged column names and types turn up as any of these
        raise DamagedFileError(reader.path, 0, f"{DOC_START} or {DOMAIN} cannot be read ({error})") from error
    outside = ((starts < 0) | (starts >= manifest.seq_len)).any()
    if len(lists) != reader.rows or len(codes) != reader.rows or outside or codes.null_count:
        raise DamagedFileError(reader.path, 0, f"{DOC_START} or {DOMAIN} does not fit the manifest")
    smallest = np.uint16 if manifest.seq_len <= np.iinfo(np.uint16).max else np.int32
    return starts.astype(smallest), counts, codes.to_numpy().astype(np.int16)

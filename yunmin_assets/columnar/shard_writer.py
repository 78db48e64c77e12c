"""Write rows as Parquet shards whose data pages *are* the rows.

    tokens     REQUIRED FIXED_LEN_BYTE_ARRAY(2 or 4 × (seq_len + 1)), little-endian ids
    doc_start  REQUIRED list of int32: input positions, 0 … seq_len - 1, at which a document starts
    domain     REQUIRED string

`tokens` is PLAIN without dictionary and statistics. A REQUIRED column has no levels, so the payload of a v1
data page is the rows one after the other, and a reader that knows the page's place needs one `pread`. Pages
have checksums and a page index (Parquet format: PageIndex.md, "Checksumming" in README.md).

pyarrow looks at the size of a page only after each `write_batch_size` values (1024 by default, 4 MB of
tokens), so the batch is set to the rows of one page.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.manifest import ShardEntry, shard_name
from yunmin_assets.columnar.rows import RowLayout
from yunmin_assets.files import sha256_of

ZSTD_LEVEL = 3
TOKENS, DOC_START, DOMAIN = "tokens", "doc_start", "domain"


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of one domain."""

    folder: Path
    layout: RowLayout
    config: PackConfig
    domain: str

    def write(self, records: Iterable[NDArray[np.uint8]]) -> list[ShardEntry]:
        """Write blocks of records uint8 [rows, record_bytes].

        A shard ends with the row group that brings it to `shard_bytes`.
        """
        entries: list[ShardEntry] = []
        writer, rows = None, 0
        for group in _regroup(records, self.config.rows_per_row_group, self.layout.record_bytes):
            path = self.folder / shard_name(len(entries))
            if writer is None:
                writer = self._open(path)
            writer.write_table(self._table(group), row_group_size=len(group))
            rows += len(group)
            if rows * self.layout.token_bytes >= self.config.shard_bytes:
                entries.append(_close(writer, path, rows))
                writer, rows = None, 0
        if writer is not None:
            entries.append(_close(writer, path, rows))
        return entries

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of a shard."""
        start = pa.field("element", pa.int32(), nullable=False)
        return pa.schema(
            [
                pa.field(TOKENS, pa.binary(self.layout.token_bytes), nullable=False),
                pa.field(DOC_START, pa.list_(start), nullable=False),
                pa.field(DOMAIN, pa.string(), nullable=False),
            ]
        )

    def _open(self, path: Path) -> pq.ParquetWriter:
        row_bytes = self.layout.token_bytes
        rows_per_page = max(1, round(self.config.page_bytes / row_bytes))
        compressed = self.config.compression == "zstd"
        return pq.ParquetWriter(
            path,
            self.schema,
            compression=self.config.compression,
            compression_level=ZSTD_LEVEL if compressed else None,
            use_dictionary=[DOMAIN],
            column_encoding={TOKENS: "PLAIN", f"{DOC_START}.list.element": "PLAIN"},
            write_statistics=[DOMAIN],
            data_page_version="1.0",
            data_page_size=rows_per_page * row_bytes,
            write_batch_size=rows_per_page,
            write_page_index=True,
            write_page_checksum=True,
            store_schema=False,  # the Parquet types say it all
        )

    def _table(self, records: NDArray[np.uint8]) -> pa.Table:
        tokens, starts = self.layout.split(records)
        rows = len(records)
        ends = np.concatenate([[0], np.cumsum(starts.sum(axis=1, dtype=np.int32), dtype=np.int32)])
        positions = np.nonzero(starts)[1].astype(np.int32)
        token_type, start_type, domain_type = self.schema.types
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(token_type, rows, [None, pa.py_buffer(tokens)]),
            pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(positions), type=start_type),
            pa.repeat(pa.scalar(self.domain, domain_type), rows),
        ]
        return pa.table(columns, schema=self.schema)


def _close(writer: pq.ParquetWriter, path: Path, rows: int) -> ShardEntry:
    writer.close()
    return ShardEntry(name=path.name, rows=rows, bytes=path.stat().st_size, sha256=sha256_of(path))


def _regroup(
    blocks: Iterable[NDArray[np.uint8]], rows_per_group: int, record_bytes: int
) -> Iterator[NDArray[np.uint8]]:
    """Cut blocks anew into blocks of `rows_per_group` rows; each is valid until the next is asked for."""
    group = np.empty((rows_per_group, record_bytes), np.uint8)
    filled = 0
    for block in blocks:
        taken = 0
        while taken < len(block):
            step = min(len(block) - taken, rows_per_group - filled)
            group[filled : filled + step] = block[taken : taken + step]
            filled, taken = filled + step, taken + step
            if filled == rows_per_group:
                yield group
                filled = 0
    if filled:
        yield group[:filled]

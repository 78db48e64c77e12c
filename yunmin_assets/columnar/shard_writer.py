"""Write rows as Parquet shards whose data pages *are* the rows.

    tokens     REQUIRED FIXED_LEN_BYTE_ARRAY(2 or 4 × (seq_len + 1)), little-endian ids
    doc_start  REQUIRED list of int32: input positions, 0 … seq_len - 1, at which a document starts
    domain     REQUIRED string

`tokens` is PLAIN without dictionary and statistics. A REQUIRED column has no levels, so the payload of a v1
data page is the rows one after the other, and a reader that knows the page's place needs one `pread`. Pages
have checksums and a page index (Parquet format: PageIndex.md, "Checksumming" in README.md). The footer says
under `yunmin.*` what the bytes are, so that one shard can be read without the manifest. Beside each shard
lies its index, from which the loader starts (see shard_index).

A shard appears under its name when it is whole, so those that a killed run left need not be written again,
nor, with their entries kept beside them until the manifest has them, read again.

pyarrow looks at the size of a page only after each `write_batch_size` values (1024 by default, 4 MB of
tokens), so the batch is set to the rows of one page.

Price: about three row groups in memory.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.manifest import MANIFEST_FILE, PackManifest, ShardEntry, shard_name
from yunmin_assets.columnar.rows import RowLayout
from yunmin_assets.columnar.shard_index import DOC_START, DOMAIN, write_shard_index
from yunmin_assets.files import flush, sha256_of, write_whole

ZSTD_LEVEL = 3
LARGEST_ROW_GROUP_BYTES = 64 * 1024 * 1024  # very long rows make row groups of fewer rows
FOOTER_PREFIX = "yunmin."
ENTRY_SUFFIX = ".entry.json"
TOKENS = "tokens"


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of one domain into an existing folder."""

    folder: Path
    config: PackConfig
    domain: str = ""
    tokenizer_hash: str = ""

    def __post_init__(self) -> None:
        RowLayout.of(self.config)  # refuse what cannot be stored before anything is written

    @property
    def layout(self) -> RowLayout:
        """How the records that `write` takes are made up."""
        return RowLayout.of(self.config)

    @property
    def rows_per_row_group(self) -> int:
        """Rows of a full row group."""
        largest = LARGEST_ROW_GROUP_BYTES // self.layout.token_bytes
        return max(1, min(self.config.rows_per_row_group, largest))

    def finished(self) -> list[ShardEntry]:
        """The shards that are in the folder already, from the first one on without a gap.

        A shard is read again only if its entry was not kept, or says another size.
        """
        kept = self._kept_entries()
        entries: list[ShardEntry] = []
        while (path := self.folder / shard_name(len(entries))).exists():
            entry = kept.get(path.name)
            if entry is None or entry.bytes != path.stat().st_size:
                entry = self._describe(path)
            entries.append(entry)
        return entries

    def forget_entries(self) -> None:
        """Remove the kept entries: the manifest has them now."""
        for path in self.folder.glob(f"*{ENTRY_SUFFIX}"):
            path.unlink()

    def write(self, records: Iterable[NDArray[np.uint8]], first_shard: int = 0) -> Iterator[ShardEntry]:
        """Write blocks of records uint8 [rows, record_bytes]; yield each shard when it is whole.

        A shard ends with the row group that brings it to `shard_bytes`.
        """
        groups = _regroup(records, self.rows_per_row_group, self.layout.record_bytes)
        for number in itertools.count(first_shard):
            path = self.folder / shard_name(number)
            if not self._write_shard(path, groups):
                return
            yield self._describe(path)

    def _write_shard(self, path: Path, groups: Iterator[NDArray[np.uint8]]) -> int:
        """Write the next row groups as one shard; return their rows, 0 when none is left."""
        group, rows = next(groups, None), 0
        if group is None:
            return 0
        part = path.with_name(f"{path.name}.part")
        with self._open(part) as writer:
            writer.add_key_value_metadata(self.footer)
            while group is not None:
                writer.write_table(self._table(group), row_group_size=len(group))
                rows += len(group)
                is_full = rows * self.layout.token_bytes >= self.config.shard_bytes
                group = None if is_full else next(groups, None)
        flush(part)
        part.rename(path)
        return rows

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

    @property
    def footer(self) -> dict[str, str]:
        """What the footer of a shard says about its bytes."""
        facts = {
            "format": "yunmin-packed-1",
            "dtype": self.layout.dtype,
            "seq_len": self.config.seq_len,
            "vocab_size": self.config.vocab_size,
            "eos_id": self.config.eos_id,
            "seed": self.config.seed,
            "tokenizer_hash": self.tokenizer_hash,
            "domain": self.domain,
        }
        return {f"{FOOTER_PREFIX}{name}": str(value) for name, value in facts.items()}

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
        positions = np.broadcast_to(np.arange(self.layout.seq_len, dtype=np.int32), starts.shape)[starts != 0]
        token_type, start_type, domain_type = self.schema.types
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(token_type, rows, [None, pa.py_buffer(tokens)]),
            pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(positions), type=start_type),
            pa.repeat(pa.scalar(self.domain, domain_type), rows),
        ]
        return pa.table(columns, schema=self.schema)

    def _kept_entries(self) -> dict[str, ShardEntry]:
        """By the shard's name; from the manifest if there is one, else from beside the shards."""
        if (self.folder / MANIFEST_FILE).exists():
            return {entry.name: entry for entry in PackManifest.read(self.folder).files}
        paths = self.folder.glob(f"*{ENTRY_SUFFIX}")
        entries = [ShardEntry.model_validate_json(path.read_bytes()) for path in paths]
        return {entry.name: entry for entry in entries}

    def _describe(self, path: Path) -> ShardEntry:
        """The entry of a whole shard; its page index is written beside it, and the entry, too."""
        entry = ShardEntry(
            name=path.name,
            rows=pq.read_metadata(path).num_rows,
            bytes=path.stat().st_size,
            sha256=sha256_of(path),
            index_sha256=write_shard_index(path, self.config.seq_len),
        )
        write_whole(path.with_suffix(ENTRY_SUFFIX), entry.model_dump_json())
        return entry


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

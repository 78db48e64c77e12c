"""The *documents* product: the text that was trained on, with its token counts, as Parquet.

    shard-00000.parquet  id, text, source, lang, domain, license, meta, n_tokens
    shard-00001.parquet  …

zstd-3, row groups of 1024 documents (fewer where they are very long), page index and page checksums; the
footer counts documents, tokens, bytes of text, and what the same documents would take as JSONL. Columns that
earlier stages added stay in the snapshots of those stages.

Price: one row group of text in memory.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from yunmin_assets.columnar.shard_writer import FOOTER_PREFIX
from yunmin_assets.documents import DOCUMENT_SCHEMA, DOCUMENT_WRITE_OPTIONS, ROW_GROUP_DOCUMENTS
from yunmin_assets.files import flush
from yunmin_assets.parquet_batches import iterate_batches

LARGEST_ROW_GROUP_BYTES = 64 * 1024 * 1024
TOKEN_COUNT_FIELD = pa.field("n_tokens", pa.int32(), nullable=False)
SHARD_SCHEMA = DOCUMENT_SCHEMA.append(TOKEN_COUNT_FIELD)
WRITE_OPTIONS = DOCUMENT_WRITE_OPTIONS | {
    "write_statistics": [*DOCUMENT_WRITE_OPTIONS["write_statistics"], TOKEN_COUNT_FIELD.name]
}


@dataclass
class DocumentCounts:
    """What document shards hold, as their footers say."""

    documents: int = 0
    tokens: int = 0
    """Without end-of-text tokens."""
    text_bytes: int = 0
    """UTF-8 bytes of the texts."""
    jsonl_bytes: int = 0
    """Bytes of the documents as JSONL, one object with all columns per line, as orjson writes it."""


class DocumentShardWriter:
    """Writes one shard, batch by batch; the file appears under its name when it is whole.

    Example:
        with DocumentShardWriter(folder / "shard-00000.parquet", tokenizer_hash="17c0…") as shard:
            for batch in tokenize_batches(batches, tokenizer_dir):
                shard.write(batch.documents, batch.lengths)
    """

    def __init__(self, path: Path, tokenizer_hash: str = ""):
        """Begin a file; an earlier one of this name is replaced."""
        self.path, self._tokenizer_hash = path, tokenizer_hash
        self._part = path.with_name(f"{path.name}.part")
        self._writer = pq.ParquetWriter(self._part, SHARD_SCHEMA, **WRITE_OPTIONS)
        self._waiting: list[pa.RecordBatch] = []
        self._counts = DocumentCounts()

    def write(self, documents: pa.RecordBatch, token_counts: NDArray[np.int32]) -> None:
        """Add documents.

        Args:
            documents: a batch with the columns of `DOCUMENT_SCHEMA`; others are left out.
            token_counts: [documents] tokens of each, without the end-of-text token.

        Raises:
            ValueError: the counts do not match the documents, or a column is missing.
        """
        if len(token_counts) != documents.num_rows:
            raise ValueError(f"{len(token_counts)} token counts for {documents.num_rows} documents")
        if missing := [name for name in DOCUMENT_SCHEMA.names if name not in documents.schema.names]:
            raise ValueError(f"documents lack the columns {missing}")
        batch = documents.select(DOCUMENT_SCHEMA.names).cast(DOCUMENT_SCHEMA)
        self._counts.documents += batch.num_rows
        self._counts.tokens += int(token_counts.sum(dtype=np.int64))
        self._counts.text_bytes += pc.sum(pc.binary_length(batch["text"])).as_py() or 0
        self._counts.jsonl_bytes += sum(len(orjson.dumps(row)) + 1 for row in batch.to_pylist())
        counts = pa.array(token_counts, TOKEN_COUNT_FIELD.type)
        self._waiting.append(pa.RecordBatch.from_arrays([*batch.columns, counts], schema=SHARD_SCHEMA))
        self._write_row_groups(is_last=False)

    def __enter__(self) -> "DocumentShardWriter":
        return self

    def __exit__(
        self, failure: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if failure is not None:
            with contextlib.suppress(OSError):  # of a full disk; the error that led here is the one to tell
                self._writer.close()
            self._part.unlink(missing_ok=True)
            return
        self._write_row_groups(is_last=True)
        facts = {**asdict(self._counts), "tokenizer_hash": self._tokenizer_hash}
        self._writer.add_key_value_metadata(
            {f"{FOOTER_PREFIX}{name}": str(value) for name, value in facts.items()}
        )
        self._writer.close()
        flush(self._part)
        self._part.rename(self.path)

    def _write_row_groups(self, *, is_last: bool) -> None:
        table = pa.Table.from_batches(self._waiting, SHARD_SCHEMA)
        is_large = table.nbytes >= LARGEST_ROW_GROUP_BYTES
        while table.num_rows >= ROW_GROUP_DOCUMENTS or (table.num_rows and (is_last or is_large)):
            self._writer.write_table(table.slice(0, ROW_GROUP_DOCUMENTS), row_group_size=ROW_GROUP_DOCUMENTS)
            table = table.slice(ROW_GROUP_DOCUMENTS)
        self._waiting = table.to_batches()


def count_documents(shards: Sequence[Path]) -> DocumentCounts:
    """Add up what the footers of document shards say."""
    total = DocumentCounts()
    for path in shards:
        footer = pq.read_metadata(path).metadata
        for field in fields(DocumentCounts):
            value = int(footer[f"{FOOTER_PREFIX}{field.name}".encode()])
            setattr(total, field.name, getattr(total, field.name) + value)
    return total


def token_count_histogram(shards: Sequence[Path]) -> dict[int, int]:
    """How many documents have 1, 2–3, 4–7, … tokens: lower bound (a power of two, or 0) → documents."""
    counts = np.zeros(TOKEN_COUNT_FIELD.type.bit_width, np.int64)
    for path in shards:
        for batch in iterate_batches(path, [TOKEN_COUNT_FIELD.name], ROW_GROUP_DOCUMENTS):
            _, exponents = np.frexp(batch.column(0).to_numpy())
            counts += np.bincount(exponents, minlength=len(counts))
    return {int(2**exponent // 2): int(counts[exponent]) for exponent in np.flatnonzero(counts)}

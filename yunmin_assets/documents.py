"""The document table that travels between the stages."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "validation", "test")

EXACT_DUPLICATE = "exact duplicate"
"""The reason in every removal log for a text that another document already has."""

SYNTHETIC_SOURCE = "synthetic:"
"""How `source` begins in documents that nobody wrote."""

DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("lang", pa.string()),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("license", pa.string()),
        pa.field("meta", pa.string()),  # the user's own object, as JSON text
    ]
)

ROW_GROUP_DOCUMENTS = 1024
REPEATED_COLUMNS = ["source", "lang", "domain", "license", "meta"]
DOCUMENT_WRITE_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "write_page_index": True,
    "write_page_checksum": True,
    # A dictionary of texts, all different, would only cost; so would the smallest and largest text of a page.
    "use_dictionary": REPEATED_COLUMNS,
    "write_statistics": ["id", *REPEATED_COLUMNS],
}


def write_documents(table: pa.Table, path: Path) -> None:
    """Write a table of documents as zstd-3 Parquet in row groups of 1024 documents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=ROW_GROUP_DOCUMENTS, **DOCUMENT_WRITE_OPTIONS)


class RowGroupWriter:
    """Appends tables of any size to a Parquet file in row groups of 1024 documents.

    A context manager. The file is complete when it is left, also without any rows.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, schema, **DOCUMENT_WRITE_OPTIONS)
        self._waiting = schema.empty_table()

    def write(self, table: pa.Table) -> None:
        """Append rows; full row groups are written at once."""
        self._waiting = pa.concat_tables([self._waiting, table])
        full = self._waiting.num_rows // ROW_GROUP_DOCUMENTS * ROW_GROUP_DOCUMENTS
        if full:
            self._writer.write_table(self._waiting.slice(0, full), row_group_size=ROW_GROUP_DOCUMENTS)
            self._waiting = self._waiting.slice(full).combine_chunks()

    def __enter__(self) -> "RowGroupWriter":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None and self._waiting.num_rows:
            self._writer.write_table(self._waiting)
        self._writer.close()


def document_files(folder: Path) -> list[Path]:
    """The Parquet files of documents in a `clean_corpus` snapshot, in order."""
    return sorted(folder.glob("documents-*.parquet"))


def split_path(folder: Path, split: str) -> Path:
    """The file that holds one split of a domain inside a `deduped_corpus` or `pruned_corpus` snapshot.

    Raises:
        ValueError: `split` is not train, validation or test.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return folder / f"{split}.parquet"


def read_documents(paths: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Read Parquet files of documents into one table, in the order of `paths`."""
    wanted = list(columns) if columns is not None else None
    return pa.concat_tables([pq.read_table(path, columns=wanted) for path in paths])


def iterate_texts(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the texts of Parquet files of documents, one row group in memory at a time."""
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP_DOCUMENTS, columns=["text"]):
            yield from batch.column(0).to_pylist()

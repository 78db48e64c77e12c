"""The document table that travels between the stages."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.parquet_batches import READ_BUFFER_BYTES, batches_of

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


def document_batches(
    path: Path, columns: Sequence[str], row_groups: Iterable[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the documents of a Parquet file in batches of up to 1024, one row group in memory at a time.

    Args:
        columns: names of the columns to read.
        row_groups: which row groups, in this order; all when it is absent.

    Raises:
        ValueError: a document that cannot be used, by file and row (see `check_documents`).
    """
    with pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES) as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        for group in range(len(sizes)) if row_groups is None else row_groups:
            row = sum(sizes[:group])
            for batch in batches_of(parquet, ROW_GROUP_DOCUMENTS, columns, [group]):
                check_documents(batch, str(path), first_row=row)
                yield batch
                row += batch.num_rows


def iterate_texts(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the texts of Parquet files of documents. Memory and errors as of `document_batches`."""
    for path in paths:
        for batch in document_batches(path, ["text"]):
            yield from batch.column(0).to_pylist()


def check_documents(batch: pa.RecordBatch, where: str = "", first_row: int = 0) -> None:
    """Refuse documents without an id, a text or a domain, as far as these columns are there, or with a broken text.

    Args:
        where: name of the file that the batch comes from.
        first_row: number of the batch's first document there, from 0.

    Raises:
        ValueError: a value is null, or a text is not UTF-8; names file, row and id.
    """
    for field in DOCUMENT_SCHEMA:
        if field.nullable or field.name not in batch.schema.names:
            continue
        column = batch[field.name]
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise ValueError(_unusable(batch, where, first_row, row, f"{field.name} is null"))
    if "text" not in batch.schema.names:
        return
    try:
        batch["text"].validate(full=True)
    except pa.ArrowInvalid as error:
        row, place = _first_broken_text(batch["text"])
        reason = f"text is not UTF-8 at byte {place}"
        raise ValueError(_unusable(batch, where, first_row, row, reason)) from error


def _unusable(batch: pa.RecordBatch, where: str, first_row: int, row: int, reason: str) -> str:
    identifier = batch["id"][row].as_py() if "id" in batch.schema.names else None
    named = f" (id {identifier!r})" if identifier is not None else ""
    file = f"{where}, " if where else ""
    return f"{file}document {first_row + row}{named}: {reason}; mend or remove it and write the file again"


def _first_broken_text(texts: pa.Array) -> tuple[int, int]:
    """Row, and byte in its text."""
    for row, text in enumerate(texts.cast(pa.large_binary()).to_pylist()):
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return row, error.start
    raise AssertionError("pyarrow found a text that is not UTF-8, and Python none")

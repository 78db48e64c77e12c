"""Read the *documents* product for analysis: only the columns and row groups that are asked for.

Parquet stores each column of a row group apart, so `["text"]` reads the bytes of `text` alone. Row groups hold
1024 documents; those outside `rows` are not touched.

Price: one row group of the chosen columns in memory. A row range is cut to whole row groups when it is read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from yunmin_assets.columnar.manifest import shard_name
from yunmin_assets.columnar.page_reader import DamagedFileError

SHARDS = "shard-*.parquet"


def read_document_batches(
    folder: Path | UPath | str,
    columns: Sequence[str] | None = None,
    rows: range | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield documents as Arrow batches, in stored order.

    Args:
        folder: the *documents* folder of `parquet_shards`, or a remote prefix; or one Parquet file of documents.
        columns: names of columns; all when absent.
        rows: numbers of the documents wanted, a range of step 1; all when absent.

    Yields:
        One batch per row group, of the columns in the order asked for.

    Raises:
        FileNotFoundError: no shards in `folder`, or one between the others is missing.
        DamagedFileError: a shard is truncated, or a page does not match its checksum.
        ValueError: a column is missing; the message names those that there are.

    Example:
        characters = sum(pc.sum(pc.utf8_length(batch["text"])).as_py()
                         for batch in read_document_batches("documents", ["text"]))
    """
    if rows is not None and rows.step != 1:
        raise ValueError(f"{rows}: only ranges of step 1")
    if columns is not None and not columns:
        raise ValueError("no columns: name at least one, or leave them out for all")
    first = 0
    for path in _shards(UPath(folder)):
        if rows is not None and first >= rows.stop:
            return
        with path.open("rb") as source, _opened(source, path) as file:
            names = _checked_columns(file, path, columns)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                begin, end = (0, count) if rows is None else (rows.start - first, rows.stop - first)
                begin, end = max(begin, 0), min(end, count)
                first += count
                if begin < end:
                    table = _row_group(file, path, group, names)
                    yield table.slice(begin, end - begin).combine_chunks().to_batches()[0]


def _opened(source: BinaryIO, path: UPath) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise DamagedFileError(str(path), 0, f"the footer cannot be read ({error})") from error


def _row_group(file: pq.ParquetFile, path: UPath, group: int, names: list[str]) -> pa.Table:
    try:
        return file.read_row_group(group, names, use_threads=False).select(names)
    except (OSError, pa.ArrowException) as error:
        # A column's bytes lie together; pyarrow does not say in which of the columns it failed.
        chunk = file.metadata.row_group(group).column(0)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        raise DamagedFileError(str(path), start, f"row group {group} cannot be read ({error})") from error


def _shards(folder: UPath) -> list[UPath]:
    if folder.is_file():
        return [folder]
    shards = sorted(folder.glob(SHARDS), key=lambda path: path.name)
    if not shards:
        raise FileNotFoundError(f"{folder}: no {SHARDS} in this folder")
    for number, path in enumerate(shards):
        if path.name != shard_name(number):
            raise FileNotFoundError(f"{folder}: {shard_name(number)} is missing, but there is {path.name}")
    return shards


def _checked_columns(file: pq.ParquetFile, path: UPath, columns: Sequence[str] | None) -> list[str]:
    known = file.schema_arrow.names
    unknown = [name for name in columns or () if name not in known]
    if unknown:
        raise ValueError(f"{path} has no columns {unknown}, only {known}")
    return known if columns is None else list(columns)

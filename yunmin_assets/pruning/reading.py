"""Going through files of documents and scores in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from yunmin_assets.parquet_batches import iterate_batches

TEXTS_AT_ONCE = 16  # a row of texts may be long
ROWS_AT_ONCE = 1 << 16


def row_count(path: Path) -> int:
    """Rows of a Parquet file."""
    return int(pq.read_metadata(path).num_rows)


def column_values(path: Path, column: str) -> NDArray[np.float64]:
    """A numeric column as float64, null as NaN: 8 bytes per row."""
    values = np.empty(row_count(path))
    start = 0
    for batch in iterate_batches(path, [column], ROWS_AT_ONCE):
        values[start : start + batch.num_rows] = batch.column(0).to_numpy(zero_copy_only=False)
        start += batch.num_rows
    return values


def picked_rows(
    path: Path,
    columns: Sequence[str],
    rows: NDArray[np.int64] | Sequence[int],
    *,
    at_once: int = TEXTS_AT_ONCE,
) -> pa.Table:
    """Some rows of a Parquet file, in ascending order; other row groups are not read."""
    wanted = np.sort(np.asarray(rows, np.int64))
    metadata, schema = pq.read_metadata(path), pq.read_schema(path)
    schema = pa.schema([schema.field(name) for name in columns])
    starts = np.cumsum([0, *(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))])
    picked = []
    for number in np.unique(np.searchsorted(starts, wanted, side="right") - 1):
        start = int(starts[number])
        for batch in iterate_batches(path, columns, at_once, [int(number)]):
            inside = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
            if len(inside):
                picked.append(batch.take(pa.array(inside - start)))
            start += batch.num_rows
    return pa.Table.from_batches(picked, schema)


class RowReader:
    """Reads a Parquet file from the beginning, as many rows at a time as are asked for."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        schema = pq.read_schema(path)
        self._waiting = pa.schema([schema.field(name) for name in columns]).empty_table()
        self._batches: Iterator[pa.RecordBatch] = iterate_batches(path, columns, ROWS_AT_ONCE)

    def take(self, rows: int) -> pa.Table:
        """The next rows; fewer where the file ends."""
        while self._waiting.num_rows < rows and (batch := next(self._batches, None)) is not None:
            self._waiting = pa.concat_tables([self._waiting, pa.Table.from_batches([batch])])
        taken, self._waiting = self._waiting.slice(0, rows), self._waiting.slice(rows)
        return taken

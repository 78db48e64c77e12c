"""Go through a Parquet file in record batches and in bounded memory.

`pyarrow.parquet.ParquetFile.iter_batches` over a whole file keeps the compressed bytes of every row group it
has passed until it is done (measured with pyarrow 26: 306 MB for a file of 320 MB). One iterator per row
group gives them back.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

READ_BUFFER_BYTES = 1024 * 1024


def iterate_batches(
    path: Path, columns: Sequence[str], batch_rows: int, row_groups: Iterable[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Open a file and yield batches of up to `batch_rows` rows, none of them over the end of a row group.

    Args:
        columns: names of the columns to read.
        row_groups: which row groups, in this order; all when it is absent.
    """
    with pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES) as parquet:
        yield from batches_of(parquet, batch_rows, columns, row_groups)


def batches_of(
    parquet: pq.ParquetFile,
    batch_rows: int,
    columns: Sequence[str] | None = None,
    row_groups: Iterable[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The same of a file that is open; all columns when none are named."""
    names = None if columns is None else list(columns)
    for number in range(parquet.num_row_groups) if row_groups is None else row_groups:
        yield from parquet.iter_batches(batch_rows, row_groups=[number], columns=names, use_threads=False)

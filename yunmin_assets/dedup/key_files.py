"""Sorted files of 64-bit keys: written and read one key range at a time, so memory is a matter of choice.

    key uint64 · document uint32 (row in the domain) · for text hashes also low uint64, the other half

Rows are sorted by key, then by document. Keys are hashes, so equal ranges of keys hold about equally many
rows, and the row groups that a range touches follow from the minimum and maximum in the footer.

Price: 12 bytes per row on disk (hashes do not compress); about `BYTES_PER_SORTED_ROW` in memory per row
of the range at hand.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Keys = npt.NDArray[np.uint64]

KEY_SCHEMA = pa.schema(
    [pa.field("key", pa.uint64(), nullable=False), pa.field("document", pa.uint32(), nullable=False)]
)
LOW_FIELD = pa.field("low", pa.uint64(), nullable=False)
ROW_GROUP_KEYS = 65536
WRITE_OPTIONS: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
BYTES_PER_SORTED_ROW = 48
"""Keys, documents, the sorting order and copies of them."""
LARGEST_KEY = (1 << 64) - 1


def key_ranges(rows: int, memory_bytes: int) -> list[tuple[int, int]]:
    """Inclusive ranges of keys that cut `rows` rows into equal parts that can be sorted in `memory_bytes`.

    Example:
        >>> key_ranges(1_000, 1 << 20)
        [(0, 18446744073709551615)]
    """
    count = max(1, -(-rows * BYTES_PER_SORTED_ROW // memory_bytes))
    edges = [(index << 64) // count for index in range(count + 1)]
    return [(low, high - 1) for low, high in pairwise(edges)]


def write_keys(
    path: Path,
    keys: Callable[[], Iterator[Keys]],
    rows: int,
    memory_bytes: int,
    metadata: Mapping[str, Any],
    *,
    halves: int = 1,
) -> None:
    """Sort the keys of a domain's documents into a file, which appears when it is complete.

    Args:
        path: the file.
        keys: gives the keys of the documents in order, part by part, once for every key range. A part is
            uint64[halves, n].
        rows: how many keys there are in all.
        memory_bytes: how much to sort at a time.
        metadata: kept in the schema, by key as JSON.
        halves: 2 for 128-bit hashes, whose other half becomes the column `low`.
    """
    schema = KEY_SCHEMA if halves == 1 else KEY_SCHEMA.append(LOW_FIELD)
    schema = schema.with_metadata(
        {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    )
    unfinished = path.with_name(f"{path.name}.part")
    with pq.ParquetWriter(unfinished, schema, **WRITE_OPTIONS) as writer:
        for bounds in key_ranges(rows, memory_bytes):
            table = _sorted_range(keys(), bounds, schema, np.empty((halves, 0), np.uint64))
            if table.num_rows:  # an empty row group has no minimum and maximum
                writer.write_table(table, row_group_size=ROW_GROUP_KEYS)
    os.replace(unfinished, path)


@contextmanager
def naming(path: Path, cure: str = "compute the signatures again") -> Iterator[None]:
    """Turn what Arrow says of a damaged file into an error that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as problem:
        raise ValueError(f"{path} cannot be read ({problem}): {cure}") from problem


def read_keys(path: Path, bounds: tuple[int, int] = (0, LARGEST_KEY)) -> pa.Table:
    """The rows of a file whose key lies in the inclusive range, sorted; reads only what it must.

    Raises:
        ValueError: a page is damaged, or the file is no Parquet file.
    """
    low, high = bounds
    with naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        groups = [
            group
            for group in range(file.metadata.num_row_groups)
            if _overlaps(file.metadata.row_group(group).column(0).statistics, low, high)
        ]
        table = file.read_row_groups(groups)
    keys = table["key"].to_numpy()
    first = np.searchsorted(keys, np.uint64(low), "left")
    last = np.searchsorted(keys, np.uint64(high), "right")
    return table.slice(first, last - first)


def rows_in(path: Path) -> int:
    """How many rows a file of keys has, from its footer."""
    return int(pq.read_metadata(path).num_rows)


def _overlaps(statistics: Any, low: int, high: int) -> bool:
    return bool(statistics.max >= low and statistics.min <= high)


def _sorted_range(
    parts: Iterator[Keys], bounds: tuple[int, int], schema: pa.Schema, nothing: Keys
) -> pa.Table:
    low, high = bounds
    chosen, documents = [nothing], [np.empty(0, np.int64)]
    first = 0
    for part in parts:
        places = np.flatnonzero((part[0] >= low) & (part[0] <= high))
        documents.append(places + first)
        chosen.append(part[:, places])
        first += part.shape[1]
    keys = np.concatenate(chosen, axis=1)
    order = np.argsort(keys[0], kind="stable")
    columns = [keys[0][order], np.concatenate(documents)[order].astype(np.uint32), *keys[1:, order]]
    return pa.table(columns, schema=schema)

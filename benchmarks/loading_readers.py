"""The loaders that `benchmarks/loading.py` compares, ours and those that need no further package.

Each writes the rows in its own format, and reads them as int64 batches of 8 rows, in random order where it
can. Packages are imported when they are needed, so that their memory counts.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.loading_data import (
    EOS,
    ROW_TOKENS,
    SEQ_LEN,
    STREAM_FILE,
    VOCABULARY,
    blocks,
    documents,
    open_rows,
)
from yunmin_assets.columnar.jsonl_readers import through_shuffle_buffer, values_of_lines

BATCH_ROWS = 8
SEED = 0
TOKENS = "tokens"
ROWS_OF_GROUP = 256
GROUPS_MIXED = 8
BATCH_OF_DEFAULT_FILE = 512

Batch = Any
"""A torch tensor, int64 [8, 2049], or ours: [8, 2048]; the labels lie beside it."""


@dataclass(frozen=True)
class Loader:
    """A way to store and read the rows."""

    about: str
    data: str
    """File or folder that holds its rows."""
    write: Callable[[Path, Path], None]
    """(folder of the stream, where to write)"""
    read: Callable[[Path, int], Iterator[Batch]]
    """(what was written, rows of the epoch to leave out at the beginning)"""
    packages: tuple[str, ...] = ("numpy", "torch")
    resumes: bool = False
    """Whether `read` can begin anywhere."""


def write_nothing(_source: Path, _out: Path) -> None:
    """The stream is what is read."""


def read_memmap(path: Path, start: int) -> Iterator[Batch]:
    """Rows of the memory-mapped stream by a permutation of all of them."""
    import torch

    rows = open_rows(path.parent)
    order = np.random.default_rng(SEED).permutation(len(rows))
    for first in range(start, len(order), BATCH_ROWS):
        yield torch.from_numpy(rows[order[first : first + BATCH_ROWS]].astype(np.int64))


def read_memmap_as_we_deliver(path: Path, start: int) -> Iterator[Batch]:
    """The same rows as two tensors, inputs and labels, as `PackedDataset` has them."""
    import torch

    rows = open_rows(path.parent)
    order = np.random.default_rng(SEED).permutation(len(rows))
    for first in range(start, len(order), BATCH_ROWS):
        tokens = rows[order[first : first + BATCH_ROWS]]
        inputs, labels = tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)
        batch = {"input_ids": torch.from_numpy(inputs), "labels": torch.from_numpy(labels)}
        yield batch["input_ids"]


def pack(compression: Literal["zstd", "none"]) -> Callable[[Path, Path], None]:
    """A function that writes the rows with `pack_documents`."""

    def write(source: Path, out: Path) -> None:
        from yunmin_assets.columnar import PackConfig, pack_documents

        config = PackConfig(seq_len=SEQ_LEN, vocab_size=VOCABULARY, eos_id=EOS, compression=compression)
        pack_documents(documents(source), out, config)

    return write


def read_packed(window_pages: int, *, read_thread: bool = False) -> Callable[[Path, int], Iterator[Batch]]:
    """A function that reads with `PackedDataset`, as a training loop does."""

    def read(path: Path, start: int) -> Iterator[Batch]:
        from yunmin_assets.columnar import PackedDataset

        dataset = PackedDataset(
            path, batch_size=BATCH_ROWS, seed=SEED, window_pages=window_pages, read_thread=read_thread
        )
        if start:
            dataset.load_state_dict({**dataset.state_dict(), "samples": start})
        for batch in dataset:
            yield batch["input_ids"]

    return read


def write_row_groups(source: Path, out: Path) -> None:
    """A Parquet file with 256 rows in a row group, all else as pyarrow has it by default."""
    import pyarrow.parquet as pq

    tables = map(arrow_table, blocks(source))
    first = next(tables)
    with pq.ParquetWriter(out, first.schema) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table, row_group_size=ROWS_OF_GROUP)


def write_default_parquet(source: Path, out: Path) -> None:
    """`pq.write_table` of all rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.concat_tables(map(arrow_table, blocks(source))), out)


def read_row_groups(path: Path, _start: int) -> Iterator[Batch]:
    """Row groups in random order, the rows of eight mixed."""
    import pyarrow.parquet as pq

    chance = np.random.default_rng(SEED)
    with pq.ParquetFile(path) as file:
        order = chance.permutation(file.num_row_groups).tolist()
        for first in range(0, len(order), GROUPS_MIXED):
            table = file.read_row_groups(order[first : first + GROUPS_MIXED])
            yield from _shuffled_batches(rows_of(table), chance)


def read_default_parquet(path: Path, _start: int) -> Iterator[Batch]:
    """Batches of 512 rows in stored order, each shuffled."""
    import pyarrow.parquet as pq

    chance = np.random.default_rng(SEED)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_OF_DEFAULT_FILE):
            yield from _shuffled_batches(rows_of(batch), chance)


def arrow_table(block: NDArray[np.uint16]) -> Any:
    """Rows as a table with one column, a list of 2049 uint16."""
    import pyarrow as pa

    return pa.table({TOKENS: pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), ROW_TOKENS)})


def rows_of(table: Any) -> NDArray[np.uint16]:
    """Rows [rows, 2049] of a table or batch that `arrow_table` made."""
    column = table.column(0)
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    pieces = [chunk.flatten().to_numpy().reshape(-1, ROW_TOKENS) for chunk in chunks]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def write_jsonl(source: Path, out: Path) -> None:
    """A line per row: {"tokens": [17, …]}."""
    import orjson

    with out.open("wb") as file:
        for block in blocks(source):
            file.writelines(orjson.dumps({TOKENS: row}) + b"\n" for row in block.tolist())


def read_json(path: Path, _start: int) -> Iterator[Batch]:
    """Lines in stored order by Python's json."""
    yield from _batches_of_lists(values_of_lines(path, TOKENS, json.loads))


def read_orjson(path: Path, _start: int) -> Iterator[Batch]:
    """Lines in stored order by orjson."""
    import orjson

    yield from _batches_of_lists(values_of_lines(path, TOKENS, orjson.loads))


def read_orjson_as_tensors(path: Path, _start: int) -> Iterator[Batch]:
    """The same, a tensor made of lists, as most collate functions do."""
    import orjson
    import torch

    rows = values_of_lines(path, TOKENS, orjson.loads)
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield torch.tensor(batch)


def read_orjson_shuffled(path: Path, _start: int) -> Iterator[Batch]:
    """The same through a shuffle buffer of 10,000 rows, which lie there as lists, as they were parsed."""
    import orjson

    rows = values_of_lines(path, TOKENS, orjson.loads)
    yield from _batches_of_lists(through_shuffle_buffer(rows, SEED))


def _batches_of_lists(rows: Iterator[list[int]]) -> Iterator[Batch]:
    import torch

    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield torch.from_numpy(np.array(batch, np.int64))


def _shuffled_batches(rows: NDArray[np.uint16], chance: np.random.Generator) -> Iterator[Batch]:
    import torch

    order = chance.permutation(len(rows))
    for first in range(0, len(order), BATCH_ROWS):
        yield torch.from_numpy(rows[order[first : first + BATCH_ROWS]].astype(np.int64))


_OURS = ("numpy", "torch", "zstandard")
_PYARROW = ("pyarrow",)
_ORJSON = ("orjson",)

OURS = {
    "ours-1024": Loader(
        "PackedDataset, zstd-3, window of 1024 pages (the default)",
        "packed-zstd", pack("zstd"), read_packed(1024), _OURS, resumes=True,
    ),
    "ours-256": Loader(
        "PackedDataset, zstd-3, window of 256 pages",
        "packed-zstd", pack("zstd"), read_packed(256), _OURS, resumes=True,
    ),
    "ours-uncompressed": Loader(
        "PackedDataset, no compression, window of 256 pages",
        "packed-none", pack("none"), read_packed(256), _OURS, resumes=True,
    ),
    "ours-thread": Loader(
        "the same, read by a thread, as from remote storage",
        "packed-none", pack("none"), read_packed(256, read_thread=True), _OURS, resumes=True,
    ),
}  # fmt: skip
PLAIN = {
    "memmap": Loader(
        "the ceiling: memory-mapped file, permutation of all rows, no checksum",
        STREAM_FILE, write_nothing, read_memmap, resumes=True,
    ),
    "memmap-labels": Loader(
        "the same as inputs and labels, two tensors, as ours delivers",
        STREAM_FILE, write_nothing, read_memmap_as_we_deliver, resumes=True,
    ),
    "pyarrow-groups": Loader(
        "Parquet with 256-row groups, read in random order, 8 mixed at a time",
        "row-groups.parquet", write_row_groups, read_row_groups, _PYARROW,
    ),
    "pyarrow-default": Loader(
        "pq.write_table, iter_batches(512), each batch shuffled",
        "default.parquet", write_default_parquet, read_default_parquet, _PYARROW,
    ),
    "json": Loader("JSONL of token lists, Python's json, not shuffled", "rows.jsonl", write_jsonl, read_json),
    "orjson": Loader(
        "the same with orjson, batches by numpy.array",
        "rows.jsonl", write_jsonl, read_orjson, _ORJSON,
    ),
    "orjson-tensor": Loader(
        "the same with orjson, batches by torch.tensor",
        "rows.jsonl", write_jsonl, read_orjson_as_tensors, _ORJSON,
    ),
    "orjson-buffer": Loader(
        "the same through a shuffle buffer of 10,000 rows",
        "rows.jsonl", write_jsonl, read_orjson_shuffled, _ORJSON,
    ),
}  # fmt: skip

"""Other people's loaders for `benchmarks/loading.py`, each in the way its documentation recommends for tokens.

All run without worker processes: CPU-seconds are compared, and workers only add to them.
"""

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.loading_data import ROW_TOKENS, blocks
from benchmarks.loading_readers import BATCH_ROWS, SEED, TOKENS, Batch, Loader, arrow_table, rows_of

ROWS_OF_CHUNK = 4096
"""16 MB of tokens."""
ROWS_TAKEN = 512


def write_datasets(source: Path, out: Path) -> None:
    """Hugging Face datasets: an Arrow file."""
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        for block in blocks(source):
            for row in block:
                yield {TOKENS: row}

    features = datasets.Features({TOKENS: datasets.List(datasets.Value("uint16"), length=ROW_TOKENS)})
    cache = str(out.with_suffix(".cache"))
    datasets.Dataset.from_generator(rows, features=features, cache_dir=cache).save_to_disk(str(out))


def read_datasets(path: Path, start: int) -> Iterator[Batch]:
    """Memory-mapped, eight random rows at a time."""
    import datasets
    import torch

    dataset = datasets.load_from_disk(str(path)).with_format("numpy")
    order = np.random.default_rng(SEED).permutation(len(dataset))
    for first in range(start, len(order), BATCH_ROWS):
        rows = dataset[order[first : first + BATCH_ROWS]][TOKENS]
        yield torch.from_numpy(rows.astype(np.int64))


def write_mosaicml(source: Path, out: Path) -> None:
    """MosaicML Streaming: MDS shards."""
    _import_streaming()
    from streaming.base import MDSWriter

    columns = {TOKENS: f"ndarray:uint16:{ROW_TOKENS}"}
    with MDSWriter(out=str(out), columns=columns, progress_bar=False) as writer:
        for block in blocks(source):
            for row in block:
                writer.write({TOKENS: row})


def read_mosaicml(path: Path, _start: int) -> Iterator[Batch]:
    """Its own shuffle (py1e, the default)."""
    import torch

    _import_streaming()
    from streaming.base import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()  # of a loop that was left early
    dataset = StreamingDataset(local=str(path), shuffle=True, shuffle_seed=SEED, batch_size=BATCH_ROWS)
    samples = iter(dataset)
    while batch := list(itertools.islice(samples, BATCH_ROWS)):
        yield torch.from_numpy(np.stack([sample[TOKENS] for sample in batch]).astype(np.int64))


def write_litdata(source: Path, out: Path) -> None:
    """litdata: chunks of bare tokens, by the writer that its `optimize` starts in worker processes."""
    import litdata
    import torch
    from litdata.streaming.writer import BinaryWriter

    chunk_tokens = ROWS_OF_CHUNK * ROW_TOKENS
    writer = BinaryWriter(str(out), chunk_size=chunk_tokens, item_loader=litdata.TokensLoader())
    number = 0
    for block in blocks(source):
        for row in block:
            writer.add_item(number, torch.from_numpy(row))
            number += 1
    writer.done()
    writer.merge()


def read_litdata(path: Path, _start: int) -> Iterator[Batch]:
    """Its own shuffle: chunks, and the rows of a chunk."""
    import litdata
    import torch

    loader = litdata.TokensLoader(block_size=ROW_TOKENS)
    dataset = litdata.StreamingDataset(str(path), item_loader=loader, shuffle=True, seed=SEED)
    rows = (row for row in dataset)  # its own iterator begins anew whenever `iter` is called
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield torch.stack(batch).to(torch.int64)


def write_lance(source: Path, out: Path) -> None:
    """A Lance table."""
    import lance
    import pyarrow as pa

    tables = (arrow_table(block) for block in blocks(source))
    first = next(tables)
    batches = (batch for table in itertools.chain([first], tables) for batch in table.to_batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(first.schema, batches), str(out))


def read_lance(path: Path, start: int) -> Iterator[Batch]:
    """512 random rows at a time, by `take`."""
    import lance
    import torch

    dataset = lance.dataset(str(path))
    order = np.random.default_rng(SEED).permutation(dataset.count_rows())
    for first in range(start, len(order), ROWS_TAKEN):
        rows = rows_of(dataset.take(order[first : first + ROWS_TAKEN]))
        for begin in range(0, len(rows), BATCH_ROWS):
            yield torch.from_numpy(rows[begin : begin + BATCH_ROWS].astype(np.int64))


def _import_streaming() -> None:
    """Make `streaming.base` importable without `streaming/__init__.py`, which wants torchvision for images."""
    if "streaming" not in sys.modules:
        specification = importlib.util.find_spec("streaming")
        if specification is None:
            raise ModuleNotFoundError("No module named 'streaming'", name="streaming")
        package = ModuleType("streaming")
        package.__path__ = list(specification.submodule_search_locations or [])
        sys.modules["streaming"] = package


PEERS = {
    "datasets": Loader(
        "Hugging Face datasets, Arrow file, eight random rows by index",
        "datasets", write_datasets, read_datasets, ("datasets",), resumes=True,
    ),
    "mosaicml": Loader(
        "MosaicML Streaming, MDS, its own shuffle",
        "mds", write_mosaicml, read_mosaicml, ("mosaicml-streaming",),
    ),
    "litdata": Loader(
        "litdata, TokensLoader, its own shuffle",
        "litdata", write_litdata, read_litdata, ("litdata",),
    ),
    "lance": Loader(
        "Lance, take of 512 random rows",
        "lance", write_lance, read_lance, ("pylance",), resumes=True,
    ),
}  # fmt: skip

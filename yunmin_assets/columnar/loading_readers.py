"""Read a sample in one of several ways, in a process of its own, and say what it took.

    python -m yunmin_assets.columnar.loading_readers <reader> <folder written by write_sample>

Prints one JSON object (`Measured`). A reader goes through everything once to warm up, to say what it found
and how much memory it took; then again, for the time, until it has used one second. CPU seconds are those of
all threads. Memory is the peak of the process's own pages (RssAnon in proc(5), looked at every two
milliseconds) over what it took with its libraries loaded.
"""

import collections
import itertools
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc

from yunmin_assets.columnar.document_reader import read_document_batches
from yunmin_assets.columnar.loading_sample import (
    DOCUMENTS_JSONL,
    DOCUMENTS_PARQUET,
    ROWS_JSONL,
    SAMPLE_PACKED,
)
from yunmin_assets.columnar.shard_writer import TOKENS
from yunmin_assets.config_model import ConfigModel

BATCH_ROWS = 8
WINDOW_PAGES = 256
SHUFFLE_BUFFER_ROWS = 10_000
ENOUGH_SECONDS, MOST_PASSES = 1.0, 5
SECONDS_BETWEEN_LOOKS = 0.002


class Measured(ConfigModel):
    """What one reader took for one pass over the sample."""

    cpu_seconds: float
    """Median of the passes."""
    passes: int
    extra_memory_bytes: int | None
    """None where the operating system does not tell."""
    found: int
    """Texts: characters in all. Rows: sum of all input ids. To see that readers found the same."""


def texts_by_json(folder: Path) -> Iterator[Any]:
    """The usual way: a line, `json.loads`, the text."""
    with (folder / DOCUMENTS_JSONL).open("rb") as file:
        for line in file:
            yield json.loads(line)["text"]


def texts_by_orjson(folder: Path) -> Iterator[Any]:
    """The same with the fastest JSON library."""
    with (folder / DOCUMENTS_JSONL).open("rb") as file:
        for line in file:
            yield orjson.loads(line)["text"]


def texts_by_parquet(folder: Path) -> Iterator[Any]:
    """The text column as Python strings."""
    for batch in texts_as_arrow(folder):
        yield from batch.to_pylist()


def texts_as_arrow(folder: Path) -> Iterator[Any]:
    """The text column as Arrow arrays, as a tokenizer in Arrow batches takes it."""
    for batch in read_document_batches(folder / DOCUMENTS_PARQUET, ["text"]):
        yield batch.column(0)


def rows_by_json(folder: Path) -> Iterator[Any]:
    """Token lists from JSONL as batches, in stored order."""
    yield from _batches(_token_lists(folder, json.loads))


def rows_by_orjson(folder: Path) -> Iterator[Any]:
    """The same with the fastest JSON library."""
    yield from _batches(_token_lists(folder, orjson.loads))


def rows_by_orjson_shuffled(folder: Path) -> Iterator[Any]:
    """The same through a shuffle buffer, as streaming loaders do."""
    yield from _batches(_through_buffer(_token_lists(folder, orjson.loads)))


def rows_by_packed_dataset(folder: Path) -> Iterator[Any]:
    """`PackedDataset`, shuffled."""
    from yunmin_assets.columnar import PackedDataset

    yield from PackedDataset(folder / SAMPLE_PACKED, batch_size=BATCH_ROWS, window_pages=WINDOW_PAGES)


READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    reader.__name__: reader
    for reader in (
        texts_by_json,
        texts_by_orjson,
        texts_by_parquet,
        texts_as_arrow,
        rows_by_json,
        rows_by_orjson,
        rows_by_orjson_shuffled,
        rows_by_packed_dataset,
    )
}


def measure(reader: str, folder: Path) -> Measured:
    """Run one of `READERS` in this process."""
    read = READERS[reader]
    if reader.startswith("rows"):
        from yunmin_assets.columnar import PackedDataset  # noqa: F401  torch and all that training loads anyway
    with _MemoryWatch() as memory:
        found = sum(map(_size, read(folder)))
    seconds: list[float] = []
    while not seconds or (sum(seconds) < ENOUGH_SECONDS and len(seconds) < MOST_PASSES):
        started = time.process_time()
        collections.deque(read(folder), maxlen=0)
        seconds.append(time.process_time() - started)
    return Measured(
        cpu_seconds=statistics.median(seconds),
        passes=len(seconds),
        extra_memory_bytes=memory.extra_bytes,
        found=found,
    )


class _MemoryWatch:
    """Looks at the memory of this process from a thread; `extra_bytes` is the peak over the beginning."""

    extra_bytes: int | None = None

    def __enter__(self) -> "_MemoryWatch":
        self._begun, self._is_over = _own_memory_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while self._begun is not None:
            now = _own_memory_bytes()
            if now is not None:
                self.extra_bytes = max(self.extra_bytes or 0, now - self._begun)
            if self._is_over.wait(SECONDS_BETWEEN_LOOKS):
                return


def _own_memory_bytes() -> int | None:
    """Memory of this process without files; None where the operating system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), None)


def _token_lists(folder: Path, loads: Callable[[bytes], Any]) -> Iterator[list[int]]:
    with (folder / ROWS_JSONL).open("rb") as file:
        for line in file:
            yield loads(line)[TOKENS]


def _through_buffer(rows: Iterable[list[int]]) -> Iterator[list[int]]:
    """Fill a buffer, then give out a random row for each that comes in."""
    chance = random.Random(0)
    iterator = iter(rows)
    buffer = [*itertools.islice(iterator, SHUFFLE_BUFFER_ROWS)]
    for row in iterator:
        place = chance.randrange(len(buffer))
        yield buffer[place]
        buffer[place] = row
    chance.shuffle(buffer)
    yield from buffer


def _batches(rows: Iterator[list[int]]) -> Iterator[dict[str, Any]]:
    """What a training step takes, int64 [8, seq_len] twice."""
    import torch

    while batch := [*itertools.islice(rows, BATCH_ROWS)]:
        tokens = torch.from_numpy(np.array(batch, np.int64))
        yield {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}


def _size(item: Any) -> int:
    if isinstance(item, str):
        return len(item)
    if isinstance(item, dict):
        return int(item["input_ids"].sum())
    return int(pc.sum(pc.utf8_length(item)).as_py() or 0)


if __name__ == "__main__":
    print(measure(sys.argv[1], Path(sys.argv[2])).model_dump_json())

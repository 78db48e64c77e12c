"""Read a sample in one of several ways, in a process of its own, and say what it took.

    python -m yunmin_assets.columnar.loading_readers <reader> <folder written by write_sample>

Prints one JSON object (`Measured`). A reader goes through everything once to warm up, to say what it found
and how much memory it took; then again, for the time, until it has used one second. CPU seconds are those of
all threads. Memory is the peak of the process's own pages (RssAnon in proc(5), looked at every two
milliseconds) over what it took with its libraries loaded.

What was found is a hash: of the texts in their order; of the rows' input ids, each row by itself and then
added up, because not all readers keep the order.
"""

import collections
import hashlib
import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from yunmin_assets.columnar.document_reader import read_document_batches
from yunmin_assets.columnar.jsonl_readers import through_shuffle_buffer, values_of_lines
from yunmin_assets.columnar.loading_sample import (
    DOCUMENTS_JSONL,
    DOCUMENTS_PARQUET,
    ROWS_JSONL,
    SAMPLE_PACKED,
)
from yunmin_assets.columnar.shard_writer import TOKENS
from yunmin_assets.config_model import ConfigModel
from yunmin_assets.process_memory import WITHOUT_FILES, memory_bytes

TRAINING_BATCH_ROWS = 8
WINDOW_PAGES = 256
ENOUGH_SECONDS, MOST_PASSES = 1.0, 5
SECONDS_BETWEEN_LOOKS = 0.002


class Measured(ConfigModel):
    """What one reader took for one pass over the sample."""

    cpu_seconds: float
    """Median of the passes."""
    passes: int
    extra_memory_bytes: int | None
    """None where the operating system does not tell."""
    found: str
    """Hash of the texts, or of the rows' input ids in any order; to see that readers found the same."""


def texts_by_json(folder: Path) -> Iterator[Any]:
    """The usual way: a line, `json.loads`, the text."""
    return values_of_lines(folder / DOCUMENTS_JSONL, "text", json.loads)


def texts_by_orjson(folder: Path) -> Iterator[Any]:
    """The same with the fastest JSON library."""
    return values_of_lines(folder / DOCUMENTS_JSONL, "text", orjson.loads)


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
    yield from _training_batches(values_of_lines(folder / ROWS_JSONL, TOKENS, json.loads))


def rows_by_orjson(folder: Path) -> Iterator[Any]:
    """The same with the fastest JSON library."""
    yield from _training_batches(values_of_lines(folder / ROWS_JSONL, TOKENS, orjson.loads))


def rows_by_orjson_shuffled(folder: Path) -> Iterator[Any]:
    """The same through a shuffle buffer, as streaming loaders do."""
    rows = values_of_lines(folder / ROWS_JSONL, TOKENS, orjson.loads)
    yield from _training_batches(through_shuffle_buffer(rows))


def rows_by_packed_dataset(folder: Path) -> Iterator[Any]:
    """`PackedDataset`, shuffled."""
    from yunmin_assets.columnar import PackedDataset

    yield from PackedDataset(
        folder / SAMPLE_PACKED, batch_size=TRAINING_BATCH_ROWS, window_pages=WINDOW_PAGES
    )


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
        found = (_hash_of_texts if reader.startswith("texts") else _hash_of_rows)(read(folder))
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
        self._begun, self._is_over = memory_bytes(WITHOUT_FILES), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while self._begun is not None:
            now = memory_bytes(WITHOUT_FILES)
            if now is not None:
                self.extra_bytes = max(self.extra_bytes or 0, now - self._begun)
            if self._is_over.wait(SECONDS_BETWEEN_LOOKS):
                return


def _training_batches(rows: Iterator[list[int]]) -> Iterator[dict[str, Any]]:
    """What a training step takes, int64 [8, seq_len] twice."""
    import torch

    while batch := [*itertools.islice(rows, TRAINING_BATCH_ROWS)]:
        tokens = torch.from_numpy(np.array(batch, np.int64))
        yield {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}


def _hash_of_texts(items: Iterable[Any]) -> str:
    """SHA-256 over the lengths and the UTF-8 bytes of texts, that come one by one or as Arrow arrays."""
    lengths, content = hashlib.sha256(), hashlib.sha256()
    for item in items:
        if isinstance(item, str):
            text = item.encode()
            lengths.update(len(text).to_bytes(8, "little"))
            content.update(text)
        else:  # not as Python strings: they would be counted as memory that the reader took
            offsets = np.frombuffer(item.buffers()[1], "<i8")[item.offset : item.offset + len(item) + 1]
            lengths.update(np.diff(offsets).tobytes())
            content.update(memoryview(item.buffers()[2])[offsets[0] : offsets[-1]])
    return hashlib.sha256(lengths.digest() + content.digest()).hexdigest()


def _hash_of_rows(batches: Iterable[dict[str, Any]]) -> str:
    """Sum of the rows' SHA-256, modulo 2^256."""
    total = 0
    for batch in batches:
        for row in np.ascontiguousarray(batch["input_ids"].numpy().astype("<i8")):
            total += int.from_bytes(hashlib.sha256(row).digest(), "little")
    return f"{total % 2**256:064x}"


if __name__ == "__main__":
    print(measure(sys.argv[1], Path(sys.argv[2])).model_dump_json())

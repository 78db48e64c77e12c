"""Seeded shuffling, in memory and on disk.

- A permutation is the stable argsort of the raw 64-bit stream of PCG64. NumPy promises that stream for all
  versions, but not the methods of `Generator` (NEP 19), so an order survives an upgrade.
- The external shuffle is Rao and Sandelius' (1961): every row goes to a bucket drawn at random, every bucket
  is shuffled on its own, and the buckets are put one after the other. Every order is equally likely. A bucket
  that does not fit in memory is shuffled in the same way again.

Price of the external shuffle: each row is written to disk and read back once per level (64 buckets each).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BUCKETS = 64  # a power of two, so that `raw % BUCKETS` is unbiased
BLOCK_BYTES = 4 * 1024 * 1024  # rows are moved in blocks of about this size

Key = tuple[int, ...]
"""Names one random stream among all those of a seed; the first number says what the stream is for."""
WRITE_SHUFFLE, PAGE_ORDER, ROW_ORDER = range(3)


def random_words(size: int, seed: int, key: Key) -> NDArray[np.uint64]:
    """`size` uniform 64-bit words that depend on `seed` and `key` alone."""
    return random_stream(seed, key).random_raw(size)


def random_stream(seed: int, key: Key) -> np.random.PCG64:
    """The random stream named by `seed` and `key`, both non-negative."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))


def permutation(size: int, seed: int, key: Key) -> NDArray[np.int64]:
    """A uniform permutation of `range(size)`, a pure function of its arguments."""
    return np.argsort(random_words(size, seed, key), kind="stable")


def external_shuffle(
    blocks: Iterable[NDArray[np.uint8]],
    *,
    seed: int,
    scratch: Path,
    memory_bytes: int,
    key: Key = (WRITE_SHUFFLE,),
) -> Iterator[NDArray[np.uint8]]:
    """Shuffle rows that need not fit in memory.

    Args:
        blocks: uint8 [rows, row_bytes]; the result depends on where they are cut.
        scratch: folder for the buckets, created; emptied while the result is read.
        memory_bytes: largest bucket that is shuffled in memory.

    Yields:
        uint8 [rows, row_bytes], all rows once in random order.
    """
    scratch.mkdir(parents=True)
    row_bytes = _scatter(blocks, random_stream(seed, key), scratch)
    for bucket in range(BUCKETS):
        path = scratch / str(bucket)
        if not path.exists():
            continue
        bucket_key = (*key, bucket)
        rows = path.stat().st_size // row_bytes
        if rows == 1 or rows * row_bytes <= memory_bytes:
            yield from _shuffled_in_memory(path, row_bytes, permutation(rows, seed, bucket_key))
        else:
            yield from external_shuffle(
                _read_blocks(path, row_bytes),
                seed=seed,
                scratch=scratch / f"{bucket}-split",
                memory_bytes=memory_bytes,
                key=bucket_key,
            )
        path.unlink()
    scratch.rmdir()


def _scatter(blocks: Iterable[NDArray[np.uint8]], stream: np.random.PCG64, scratch: Path) -> int:
    """Append each row to the file of a bucket drawn at random; return the bytes of a row."""
    row_bytes = 0
    files = {}
    try:
        for block in blocks:
            row_bytes = block.shape[1]
            bucket_of_row = stream.random_raw(len(block)) % BUCKETS
            by_bucket = block[np.argsort(bucket_of_row, kind="stable")]
            ends = np.cumsum(np.bincount(bucket_of_row.astype(np.int64), minlength=BUCKETS))
            for bucket, rows in enumerate(np.split(by_bucket, ends[:-1])):
                if len(rows) == 0:
                    continue
                if bucket not in files:
                    files[bucket] = (scratch / str(bucket)).open("wb")
                files[bucket].write(rows.data)
    finally:
        for file in files.values():
            file.close()
    return row_bytes


def _shuffled_in_memory(path: Path, row_bytes: int, order: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    rows = np.fromfile(path, np.uint8).reshape(-1, row_bytes)
    step = rows_per_block(row_bytes)
    for start in range(0, len(rows), step):
        yield rows[order[start : start + step]]


def _read_blocks(path: Path, row_bytes: int) -> Iterator[NDArray[np.uint8]]:
    with path.open("rb") as file:
        while data := file.read(rows_per_block(row_bytes) * row_bytes):
            yield np.frombuffer(data, np.uint8).reshape(-1, row_bytes)


def rows_per_block(row_bytes: int) -> int:
    """How many rows make a block of about `BLOCK_BYTES`."""
    return max(1, BLOCK_BYTES // row_bytes)

"""Seeded shuffling, in memory and on disk.

- A permutation is the stable argsort of the raw 64-bit stream of PCG64. NumPy promises that stream for all
  versions, but not the methods of `Generator` (NEP 19), so an order survives an upgrade.
- The external shuffle gives exactly that order to rows that do not fit in memory: row i carries the i-th
  word of the stream as its key, `scatter` deals rows to buckets by the leading bits of their keys, `gather`
  sorts one bucket after the other. So the order is a function of seed and row number alone, whatever the
  memory and however the rows were cut into blocks and pieces.

Price of the external shuffle: each row is written to disk once with 8 bytes more, and read back once. A bucket
that does not fit in memory is dealt out and read once more.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

BUCKET_BITS = 6  # of the key: 64 buckets, as many open files
KEY_TYPE = np.dtype("<u8")
KEY_BITS, KEY_BYTES = 64, KEY_TYPE.itemsize
BLOCK_BYTES = 4 * 1024 * 1024  # rows are moved in blocks of about this size
KEYS_AT_ONCE = BLOCK_BYTES // KEY_BYTES

Key = tuple[int, ...]
"""Names one random stream among all those of a seed; the first number says what the stream is for."""
WRITE_SHUFFLE, PAGE_ORDER, ROW_ORDER, MIXING_ORDER = range(4)


def random_words(size: int, seed: int, key: Key) -> NDArray[np.uint64]:
    """`size` uniform 64-bit words that depend on `seed` and `key` alone."""
    return random_stream(seed, key).random_raw(size)


def random_stream(seed: int, key: Key) -> np.random.PCG64:
    """The random stream named by `seed` and `key`, both non-negative."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))


def permutation(size: int, seed: int, key: Key) -> NDArray[np.int64]:
    """A uniform permutation of `range(size)`, a pure function of its arguments."""
    return np.argsort(random_words(size, seed, key), kind="stable")


def place_of_last_row(rows: int, seed: int) -> int:
    """Where the external shuffle puts the last of `rows` rows: behind all whose keys are not larger.

    Equal to `permutation(rows, seed, (WRITE_SHUFFLE,)).tolist().index(rows - 1)`, in little memory.
    """
    stream = random_stream(seed, (WRITE_SHUFFLE,))
    last_key = stream.advance(rows - 1).random_raw()
    stream = random_stream(seed, (WRITE_SHUFFLE,))
    not_larger = (
        int(np.count_nonzero(stream.random_raw(min(KEYS_AT_ONCE, rows - first)) <= last_key))
        for first in range(0, rows, KEYS_AT_ONCE)
    )
    return sum(not_larger) - 1


def scatter(blocks: Iterable[NDArray[np.uint8]], folder: Path, *, seed: int, first_row: int = 0) -> None:
    """Deal rows to the bucket files of `folder`, each row behind its key.

    Args:
        blocks: uint8 [rows, row_bytes].
        folder: where the files go, created.
        first_row: number of the first row in the whole data set.
    """
    stream = random_stream(seed, (WRITE_SHUFFLE,))
    stream.advance(first_row)
    keyed = (_with_keys(stream.random_raw(len(block)).astype(KEY_TYPE), block) for block in blocks)
    _deal(keyed, folder, KEY_BITS - BUCKET_BITS)


def gather(
    folders: Sequence[Path], row_bytes: int, *, memory_bytes: int, skip_rows: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Read rows that were scattered, in the order of their keys.

    Args:
        folders: written by `scatter`, in the order of their rows; left as they are.
        row_bytes: bytes of a row, without its key.
        memory_bytes: largest bucket that is sorted in memory.
        skip_rows: leave out so many rows at the beginning.

    Yields:
        uint8 [rows, row_bytes]: all rows once, as `rows[permutation(len(rows), seed, (WRITE_SHUFFLE,))]` has them.
    """
    shift = KEY_BITS - BUCKET_BITS
    for keyed in _sorted_buckets(folders, KEY_BYTES + row_bytes, memory_bytes, skip_rows, shift):
        yield keyed[:, KEY_BYTES:]


def _sorted_buckets(
    folders: Sequence[Path], keyed_bytes: int, memory_bytes: int, skip_rows: int, shift: int
) -> Iterator[NDArray[np.uint8]]:
    for bucket in range(1 << BUCKET_BITS):
        paths = [path for folder in folders if (path := _bucket_path(folder, bucket)).exists()]
        size = sum(path.stat().st_size for path in paths)
        rows = size // keyed_bytes
        if skip_rows >= rows:
            skip_rows -= rows
        elif size <= memory_bytes or rows == 1 or shift < BUCKET_BITS:
            yield from _sorted_in_memory(paths, keyed_bytes, skip_rows)
            skip_rows = 0
        else:
            split = folders[0] / f"{bucket:02d}-split"
            shutil.rmtree(split, ignore_errors=True)  # a killed run may have left one
            blocks = (block for path in paths for block in _read_blocks(path, keyed_bytes))
            _deal(blocks, split, shift - BUCKET_BITS)
            yield from _sorted_buckets([split], keyed_bytes, memory_bytes, skip_rows, shift - BUCKET_BITS)
            shutil.rmtree(split)
            skip_rows = 0


def _deal(keyed_blocks: Iterable[NDArray[np.uint8]], folder: Path, shift: int) -> None:
    """Append each row to the file of the bucket that six bits of its key name."""
    folder.mkdir(parents=True, exist_ok=True)
    buckets = 1 << BUCKET_BITS
    files: dict[int, BinaryIO] = {}
    try:
        for block in keyed_blocks:
            bucket_of_row = (_keys(block) >> np.uint64(shift)) % np.uint64(buckets)
            by_bucket = block[np.argsort(bucket_of_row, kind="stable")]
            ends = np.cumsum(np.bincount(bucket_of_row.astype(np.int64), minlength=buckets))
            for bucket, rows in enumerate(np.split(by_bucket, ends[:-1])):
                if len(rows) == 0:
                    continue
                if bucket not in files:
                    files[bucket] = _bucket_path(folder, bucket).open("wb")
                files[bucket].write(rows.data)
    finally:
        for file in files.values():
            file.close()


def _sorted_in_memory(paths: Sequence[Path], keyed_bytes: int, skip_rows: int) -> Iterator[NDArray[np.uint8]]:
    keyed = np.empty((sum(path.stat().st_size for path in paths) // keyed_bytes, keyed_bytes), np.uint8)
    filled = 0
    for path in paths:
        with path.open("rb") as file:
            filled += file.readinto(keyed.data[filled:]) // keyed_bytes
    order = np.argsort(_keys(keyed), kind="stable")
    step = rows_per_block(keyed_bytes)
    for start in range(skip_rows, len(keyed), step):
        yield keyed[order[start : start + step]]


def _with_keys(keys: NDArray[np.uint64], rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([keys[:, np.newaxis].view(np.uint8), rows], axis=1)


def _keys(keyed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keyed[:, :KEY_BYTES]).view(KEY_TYPE)[:, 0]


def _bucket_path(folder: Path, bucket: int) -> Path:
    return folder / f"{bucket:02d}"


def _read_blocks(path: Path, row_bytes: int) -> Iterator[NDArray[np.uint8]]:
    with path.open("rb") as file:
        while data := file.read(rows_per_block(row_bytes) * row_bytes):
            yield np.frombuffer(data, np.uint8).reshape(-1, row_bytes)


def rows_per_block(row_bytes: int) -> int:
    """How many rows make a block of about `BLOCK_BYTES`."""
    return max(1, BLOCK_BYTES // row_bytes)

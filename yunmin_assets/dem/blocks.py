"""Tensors cut into blocks, and threads that take a tensor each.

Everything that reads whole models goes through blocks: memory then depends on the block and not on the largest
tensor, and a block that was read is still in a processor's cache when the next operation touches it.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import torch

from yunmin_assets.dem.weight_files import DTYPES, TensorSpec

BLOCK_ELEMENTS = 1 << 19
"""In float32 two megabytes. Smaller blocks fit a level-2 cache, but then threads wait for each other in Python: a
merge took 1.3 times as long with blocks of a quarter."""
MOST_WORKERS = 4
"""More would wait for the disk; each has blocks of its own."""
ONE_AT_A_TIME = Lock()
"""PyTorch's number of threads is that of the process: two that lower it at once would restore it wrongly."""


@dataclass(frozen=True)
class Block:
    """A run of elements of a tensor in row-major order: whole rows, or a part of one row."""

    first: int
    count: int


class Source(Protocol):
    """What tensors are read from: `TensorFile` or `WeightFiles`."""

    specs: dict[str, TensorSpec]

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None: ...


def blocks(shape: tuple[int, ...]) -> Iterator[Block]:
    """Cut a tensor of this shape into blocks of at most `BLOCK_ELEMENTS`; a row is what its first index names."""
    elements, row, largest = math.prod(shape), columns(shape), largest_block(shape)
    stretch = row if largest < row else elements
    for begin in range(0, elements, max(stretch, 1)):
        for first in range(begin, begin + stretch, largest):
            yield Block(first, min(largest, begin + stretch - first))


def largest_block(shape: tuple[int, ...]) -> int:
    """Elements of the largest block of a tensor; at least 1."""
    row = max(columns(shape), 1)
    most = min(BLOCK_ELEMENTS, math.prod(shape))
    return max(most // row * row or most, 1)


def columns(shape: tuple[int, ...]) -> int:
    """Elements of a row."""
    return math.prod(shape[1:]) if len(shape) > 1 else 1


class BlockReader:
    """Reads blocks of one tensor into one buffer."""

    def __init__(self, source: Source, name: str, largest: int | None = None):
        """Args: `largest` is the number of elements that the largest block will have."""
        spec = source.specs[name]
        self._source, self._name, self._dtype = source, name, DTYPES[spec.dtype]
        size = (largest or largest_block(spec.shape)) * spec.itemsize
        self._buffer = torch.empty(size, dtype=torch.uint8)

    def read(self, block: Block) -> torch.Tensor:
        """The block in its stored dtype, flat. The next read overwrites it."""
        content = self._buffer[: block.count * self._dtype.itemsize]
        self._source.read_into(self._name, block.first * self._dtype.itemsize, content.numpy().data)
        return content.view(self._dtype)


@contextmanager
def tensor_workers() -> Iterator[ThreadPoolExecutor]:
    """Threads that work on a tensor each, as many as cores, at most four. After an error no further tensor is begun.

    Meanwhile PyTorch computes with one thread per operation, in the whole process: blocks are too small for more.
    """
    with ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(min(MOST_WORKERS, len(os.sched_getaffinity(0))))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

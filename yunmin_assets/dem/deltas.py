"""One tensor of a difference, d = Θᵢ − Θ, formed block by block where it is used."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from yunmin_assets.dem.blocks import Block, BlockReader, Source, blocks, columns, largest_block
from yunmin_assets.dem.delta_kernels import add_bfloat16_difference, add_difference
from yunmin_assets.dem.weight_files import TensorFile, WeightFiles


class Delta(Protocol):
    """One tensor of a difference; for one thread at a time."""

    def add_to(self, total: torch.Tensor, weight: float, block: Block, before: torch.Tensor) -> None:
        """Add weight · d of a block. `before` holds the base's values in the dtype of `total`; both are flat."""


class DenseDelta:
    """d = Θᵢ − Θ of tuned values Θᵢ."""

    def __init__(self, tuned: Source, name: str):
        self._reader = BlockReader(tuned, name)

    def add_to(self, total: torch.Tensor, weight: float, block: Block, before: torch.Tensor) -> None:
        stored, sums, starts = self._reader.read(block), total.numpy(), before.numpy()
        exact_weight = sums.dtype.type(weight)
        if stored.dtype == torch.bfloat16:
            add_bfloat16_difference(sums, exact_weight, stored.view(torch.uint16).numpy(), starts)
        else:
            tuned = stored.float() if stored.dtype == torch.float16 else stored  # kernels know no float16
            add_difference(sums, exact_weight, tuned.numpy(), starts)


class FactoredDelta:
    """d = scale · B·A. A is held in full, B is read by rows: memory grows with one side of the matrix only.

    In another block BLAS may sum the same products in another order. In float32 that changes the rounding of about one
    number in 100,000 of a 16-bit model; the blocks are always the same.
    """

    def __init__(
        self,
        file: TensorFile,
        key_a: str,
        key_b: str,
        scale: float,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ):
        """Args: `shape` is the base tensor's, `dtype` that of the sums."""
        self._a = file.read(key_a).to(dtype) * scale
        self._rank, self._columns = self._a.shape[0], columns(shape)
        rows = max(largest_block(shape) // self._columns, 1)
        self._b = BlockReader(file, key_b, largest=rows * self._rank)

    def add_to(self, total: torch.Tensor, weight: float, block: Block, before: torch.Tensor) -> None:
        first, column = divmod(
            block.first, self._columns
        )  # the column is not 0 where a block is part of a row
        rows = max(block.count // self._columns, 1)
        b = self._b.read(Block(first * self._rank, rows * self._rank)).view(rows, -1).to(total.dtype)
        a = self._a[:, column : column + block.count // rows]
        total.view(rows, -1).addmm_(b, a, alpha=weight)


def value_blocks(
    base: WeightFiles, name: str, deltas: Sequence[Delta], dtype: torch.dtype = torch.float64
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Per block of a tensor: the base as stored, the base in `dtype`, and each delta's d in it, [deltas, elements].

    All are overwritten by the next block.
    """
    reader, shape = BlockReader(base, name), base.specs[name].shape
    buffer = torch.empty(len(deltas), largest_block(shape), dtype=dtype)
    for block in blocks(shape):
        stored = reader.read(block)
        before = stored.to(dtype)
        values = buffer[:, : block.count].zero_()
        for delta, out in zip(deltas, values, strict=True):
            delta.add_to(out, 1.0, block, before)
        yield stored, before, values

"""A merge shard by shard: threads read, combine and write a tensor each, while the disk takes what is written."""

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, wait
from pathlib import Path

import torch
from isal.isal_zlib import crc32

from yunmin_assets.dem.blocks import Block, BlockReader, blocks, largest_block, tensor_workers
from yunmin_assets.dem.config import MergeConfig
from yunmin_assets.dem.difference import Difference, Weight, require_base_unchanged
from yunmin_assets.dem.merge_methods import Touched, method_for
from yunmin_assets.dem.weight_files import DTYPES, TensorFile, WeightFiles, raw_bytes

SECONDS_BETWEEN_FLUSHES = 0.25
"""So often the disk is told to take what was written, so that the end does not wait for all of it."""
SIXTEEN_BITS = 2  # bytes


class ShardMerge:
    """Writes merged shards of a base."""

    def __init__(
        self,
        base: WeightFiles,
        differences: Mapping[str, Difference],
        weights: Mapping[str, Weight],
        config: MergeConfig,
    ):
        self._base, self._differences, self._weights, self._config = base, differences, weights, config

    def write(self, file: TensorFile, path: Path, advance: Callable[[int], None]) -> None:
        """Write the merged counterpart of one of the base's files, whole or not at all, and onto the disk.

        Args:
            advance: Is told of bytes as they are written, by several threads.

        Raises:
            ValueError: A tensor of the base is not the one that a difference was made from, or the result is not
                finite.
        """
        part = path.with_name(f"{path.name}.part")
        with part.open("wb", buffering=0) as out, tensor_workers() as pool:
            _write_at(out.fileno(), memoryview(file.head), 0)
            advance(len(file.head))
            running = {
                pool.submit(self._write_tensor, name, out.fileno(), len(file.head) + spec.offset, advance)
                for name, spec in file.specs.items()
            }
            while running:
                done, running = wait(running, SECONDS_BETWEEN_FLUSHES, FIRST_EXCEPTION)
                for tensor in done:
                    tensor.result()
                os.fsync(out.fileno())
        part.rename(path)

    def _write_tensor(self, name: str, out: int, position: int, advance: Callable[[int], None]) -> None:
        tensor = self._tensor(name)
        for block in blocks(self._base.specs[name].shape):
            content = raw_bytes(tensor.merged(block))
            _write_at(out, content, position)
            position += len(content)
            advance(len(content))

    def _tensor(self, name: str) -> "_Copied | _Merged":
        touching = {domain: d for domain, d in self._differences.items() if name in d.shapes}
        if not touching:
            return _Copied(self._base, name)
        weights = {domain: weight_of(self._weights[domain], name) for domain in touching}
        return _Merged(self._base, name, touching, weights, self._config)


class _Copied:
    """A tensor that no difference touches."""

    def __init__(self, base: WeightFiles, name: str):
        self._reader = BlockReader(base, name)
        self._is_floating = base.specs[name].is_floating
        self._what = f"tensor {name} of {base.folder}"

    def merged(self, block: Block) -> torch.Tensor:
        stored = self._reader.read(block)
        if self._is_floating and not _is_finite(stored):
            raise ValueError(f"{self._what} holds a NaN or an infinity")
        return stored


class _Merged:
    """A tensor that differences change; its blocks are asked for in order."""

    def __init__(
        self,
        base: WeightFiles,
        name: str,
        differences: Mapping[str, Difference],
        weights: Mapping[str, float],
        config: MergeConfig,
    ):
        spec = base.specs[name]
        dtype = torch.float32 if spec.itemsize == SIXTEEN_BITS else torch.float64
        deltas = {domain: difference.delta(name, dtype) for domain, difference in differences.items()}
        self._base, self._name, self._elements = base, name, spec.elements
        self._differences = differences.values()
        self._method = method_for(config, Touched(base, name, deltas, weights, dtype))
        self._reader, self._checksum = BlockReader(base, name), 0
        size = largest_block(spec.shape)
        self._before, self._change = torch.empty(2, size, dtype=dtype)
        self._rounded = torch.empty(size, dtype=DTYPES[spec.dtype])

    def merged(self, block: Block) -> torch.Tensor:
        stored = self._reader.read(block)
        self._checksum = crc32(raw_bytes(stored), self._checksum)
        if block.first + block.count == self._elements:
            for difference in self._differences:
                require_base_unchanged(difference, self._name, self._checksum, self._base)
        before, change = self._before[: block.count].copy_(stored), self._change[: block.count].zero_()
        self._method.change(block, before, change)
        rounded = self._rounded[: block.count].copy_(change.add_(before))
        if not _is_finite(rounded):
            if not _is_finite(before):
                raise ValueError(f"tensor {self._name} of {self._base.folder} holds a NaN or an infinity")
            raise ValueError(f"tensor {self._name} of the merged model is not finite: lower the weights")
        return rounded


def weight_of(weight: Weight, name: str) -> float:
    """The weight of one tensor."""
    return weight[name] if isinstance(weight, Mapping) else weight


def _is_finite(values: torch.Tensor) -> bool:
    """Both ends are: several times faster than to ask every element, and a NaN is at both ends."""
    smallest, largest = torch.aminmax(values)
    return math.isfinite(smallest.item()) and math.isfinite(largest.item())


def _write_at(out: int, content: memoryview, position: int) -> None:
    while content:
        count = os.pwrite(out, content, position)
        content, position = content[count:], position + count

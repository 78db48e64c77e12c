"""What becomes of one tensor's differences: their sum, TIES, DARE or SLERP.

A method works on blocks, and may first look at the whole tensor, in a pass of its own (TIES, SLERP), for the few
numbers that it needs. Thresholds, signs and angles are those of one tensor, as in mergekit and peft; the TIES paper
takes them over the whole model.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from yunmin_assets.dem.blocks import Block
from yunmin_assets.dem.config import MergeConfig
from yunmin_assets.dem.delta_kernels import ANY, DIGIT_BITS, DIGITS, count_digits
from yunmin_assets.dem.deltas import Delta, value_blocks
from yunmin_assets.dem.weight_files import WeightFiles

SLERP_MODELS = 2
PHILOX_OUTPUTS = 4  # 64-bit numbers per step of its counter
PHILOX_KEY_BYTES = 16
FRACTION_BITS = 53  # of a float64
ALMOST_PARALLEL = 0.9995
"""Cosine beyond which an arc is taken for a line, as in mergekit: its angle divides by almost nothing."""
WEIGHT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Touched:
    """A tensor of the base and, by domain, the differences that change it and their weights."""

    base: WeightFiles
    name: str
    deltas: Mapping[str, Delta]
    weights: Mapping[str, float]
    dtype: torch.dtype
    """In which sums are taken."""


class Method(Protocol):
    """What is done to the blocks of one tensor."""

    def change(self, block: Block, before: torch.Tensor, out: torch.Tensor) -> None:
        """Write what is to be added to the base's values `before`.

        The change is summed up by itself and added to the base at last: so its rounding errors are lost beneath the
        last digit of the base, and a change by exactly half a step of a 16-bit number is seen as that.

        Args:
            before: Flat, as `out`.
            out: Zeros.
        """


def method_for(config: MergeConfig, tensor: Touched) -> Method:
    """The method as configured, made ready for a tensor."""
    if config.method == "ties":
        return Ties(tensor, config.kept_share)
    if config.method == "dare":
        return Dare(tensor, config.kept_share, config.seed)
    if config.method == "slerp":
        return Slerp(tensor)
    return Sum(tensor)


def require_usable_weights(config: MergeConfig, domains: int, weights: Sequence[float], name: str) -> None:
    """Refuse what SLERP is not defined for.

    Args:
        domains: How many differences there are.
        weights: Of those that change tensor `name`.

    Raises:
        ValueError: There are not two differences, or the weights of both do not sum to 1.
    """
    if config.method != "slerp":
        return
    if domains != SLERP_MODELS:
        raise ValueError(f"slerp merges exactly two differences, there are {domains}: use `sum`")
    if len(weights) == SLERP_MODELS and abs(sum(weights) - 1) > WEIGHT_TOLERANCE:
        raise ValueError(f"slerp needs weights that sum to 1, those of tensor {name} sum to {sum(weights):g}")


class Sum:
    """Θ + Σ wᵢdᵢ (arXiv 2406.15570, equation 2)."""

    def __init__(self, tensor: Touched):
        self._terms = [(delta, tensor.weights[domain]) for domain, delta in tensor.deltas.items()]

    def change(self, block: Block, before: torch.Tensor, out: torch.Tensor) -> None:
        for delta, weight in self._terms:
            delta.add_to(out, weight, block, before)


class Dare:
    """Θ + Σ wᵢ · mask(dᵢ) / density, the masks keeping that share of elements at random (arXiv 2311.03099).

    Whether an element is kept depends on the seed, the names of domain and tensor and its place, by numpy's Philox,
    whose numbers can be had from any place on.
    """

    def __init__(self, tensor: Touched, density: float, seed: int):
        self._density = density
        self._terms = [
            (delta, tensor.weights[domain] / density, _philox_key(f"{seed} {domain} {tensor.name}"))
            for domain, delta in tensor.deltas.items()
        ]

    def change(self, block: Block, before: torch.Tensor, out: torch.Tensor) -> None:
        for delta, weight, key in self._terms:
            difference = torch.zeros_like(out)
            delta.add_to(difference, weight, block, before)
            out.add_(difference.mul_(torch.from_numpy(_uniform(key, block) < self._density)))


def _philox_key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:PHILOX_KEY_BYTES], "little")


def _uniform(key: int, block: Block) -> np.ndarray:
    """Random numbers in [0, 1) that belong to the elements of a block, float64."""
    counter, skipped = divmod(block.first, PHILOX_OUTPUTS)
    raw = np.random.Philox(key=key, counter=counter).random_raw(skipped + block.count)[skipped:]
    return (raw >> np.uint64(64 - FRACTION_BITS)) * 2.0**-FRACTION_BITS


class Ties:
    """Of each difference the largest elements stay; where they disagree in sign, the side of the larger sum stays; Θ
    moves by the mean of wᵢdᵢ over those that stay (arXiv 2306.01708, algorithm 1).

    "Largest" are those at or above the magnitude of the k-th largest, k = density · elements: equal ones stay together.
    Which magnitude that is takes two passes over the tensor; a merge takes some ten times the sum's CPU-seconds.
    """

    def __init__(self, tensor: Touched, density: float):
        self._deltas = list(tensor.deltas.values())
        self._weights = torch.tensor(
            [tensor.weights[domain] for domain in tensor.deltas], dtype=tensor.dtype
        )[:, None]
        kept = max(1, int(density * tensor.base.specs[tensor.name].elements))
        self._thresholds = _kth_largest(tensor, kept)[:, None]

    def change(self, block: Block, before: torch.Tensor, out: torch.Tensor) -> None:
        stacked = torch.zeros(len(self._deltas), block.count, dtype=out.dtype)
        for delta, difference in zip(self._deltas, stacked, strict=True):
            delta.add_to(difference, 1.0, block, before)
        stacked *= stacked.abs().float() >= self._thresholds
        agreeing = torch.where(stacked.sum(dim=0) >= 0, stacked > 0, stacked < 0).to(out.dtype)
        stayed = stacked.mul_(agreeing).mul_(self._weights).sum(dim=0)
        torch.div(stayed, agreeing.sum(dim=0).clamp_(min=1), out=out)


def _kth_largest(tensor: Touched, k: int) -> torch.Tensor:
    """The k-th largest magnitude of each difference, float32.

    A radix selection: the bits of float32 magnitudes, read as integers, are in the order of the magnitudes. One pass
    counts their upper halves, a second the lower halves of those with the upper half in question.
    """
    any_upper = np.full(len(tensor.deltas), ANY)
    upper, above = _digit_of_kth(_count_digits(tensor, any_upper), torch.full((len(tensor.deltas),), k))
    lower, _ = _digit_of_kth(_count_digits(tensor, upper.numpy()), k - above)
    return ((upper << DIGIT_BITS) | lower).int().view(torch.float32)


def _count_digits(tensor: Touched, upper: np.ndarray) -> torch.Tensor:
    """How often each digit occurs in each difference, int64 [deltas, 65536]; see `count_digits`."""
    counts = np.zeros((len(tensor.deltas), DIGITS), dtype=np.int64)
    for _, _, values in value_blocks(tensor.base, tensor.name, list(tensor.deltas.values()), tensor.dtype):
        bits = values.abs().float().view(torch.int32).numpy()
        for row, counts_of_row, upper_of_row in zip(bits, counts, upper, strict=True):
            count_digits(counts_of_row, row, upper_of_row)
    return torch.from_numpy(counts)


def _digit_of_kth(counts: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The digit that holds the k-th largest number, and how many numbers have a larger digit; int64 [deltas]."""
    at_least = counts.flip(1).cumsum(1)
    place = (at_least < k[:, None]).sum(1)
    larger = torch.where(place > 0, at_least.gather(1, (place - 1).clamp(min=0)[:, None])[:, 0], 0)
    return DIGITS - 1 - place, larger


class Slerp:
    """Spherical interpolation between two models by their weights, which sum to 1 (Shoemake 1985).

    sin(w₁φ)/sin φ · Θ₁ + sin(w₂φ)/sin φ · Θ₂, φ the angle between the tensors, found in a pass of its own. Where only
    one of the differences touches the tensor, the other model is the base.
    """

    def __init__(self, tensor: Touched):
        weights = [tensor.weights[domain] for domain in tensor.deltas]
        both = weights if len(weights) == SLERP_MODELS else [*weights, 1 - weights[0]]
        cosine = _cosine_of_models(tensor)
        if abs(cosine) <= ALMOST_PARALLEL:
            angle = math.acos(cosine)
            both = [math.sin(weight * angle) / math.sin(angle) for weight in both]
        self._base_part = sum(both)
        self._terms = list(zip(tensor.deltas.values(), both, strict=False))

    def change(self, block: Block, before: torch.Tensor, out: torch.Tensor) -> None:
        out.add_(before, alpha=self._base_part - 1)
        for delta, part in self._terms:
            delta.add_to(out, part, block, before)


def _cosine_of_models(tensor: Touched) -> float:
    """Of the angle between the two models' values of a tensor."""
    products = torch.zeros(SLERP_MODELS, SLERP_MODELS, dtype=torch.float64)
    deltas = list(tensor.deltas.values())
    for _, before, values in value_blocks(tensor.base, tensor.name, deltas, tensor.dtype):
        models = before.double().repeat(SLERP_MODELS, 1)
        models[: len(values)] += values
        products.addmm_(models, models.T)
    norm = math.sqrt(products[0, 0].item() * products[1, 1].item())
    return products[0, 1].item() / norm if norm > 0 else 1.0

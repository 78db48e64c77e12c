"""What is known of a difference vector without looking at every number: sizes, outliers, angles.

Everything is summed up in float64 over blocks; nothing needs a whole tensor in memory. The price of outliers beyond
three standard deviations is a second pass over the tensor: which they are is known only after the first.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from isal.isal_zlib import crc32

from yunmin_assets.dem.blocks import tensor_workers
from yunmin_assets.dem.deltas import Delta, value_blocks
from yunmin_assets.dem.difference import Difference, open_differences
from yunmin_assets.dem.weight_files import WeightFiles, raw_bytes

OUTLIER_DEVIATIONS = 3.0


def measure(base: WeightFiles, name: str, delta: Delta) -> dict[str, Any]:
    """Statistics of one tensor of a difference.

    Returns:
        `shape`; `base_crc32` of the base's tensor; `norm` of d and `relative_norm`, as a share of the base's (None
        where that is 0); `outlier_share` of elements further than 3 standard deviations σ from the mean;
        `largest_deviation` from the mean, in σ. None of them is finite if the difference is not.

    Raises:
        ValueError: The base's tensor is not finite.
    """
    elements = base.specs[name].elements
    total = squares = base_squares = 0.0
    smallest, largest = math.inf, -math.inf
    checksum = 0
    for stored, before, values in value_blocks(base, name, [delta]):
        checksum = crc32(raw_bytes(stored), checksum)
        total += values.sum().item()
        squares += _dot(values, values)
        base_squares += _dot(before, before)
        if not math.isfinite(base_squares):
            raise ValueError(
                f"tensor {name} of {base.folder} holds a NaN or an infinity: mend or fetch that model"
            )
        low, high = torch.aminmax(values)
        smallest, largest = min(smallest, low.item()), max(largest, high.item())
    mean = total / max(elements, 1)
    deviation = math.sqrt(max(squares / max(elements, 1) - mean * mean, 0.0))
    outliers = 0
    if deviation > 0 and max(largest - mean, mean - smallest) > OUTLIER_DEVIATIONS * deviation:
        for _, _, values in value_blocks(base, name, [delta]):
            outliers += int((values.sub_(mean).abs_() > OUTLIER_DEVIATIONS * deviation).sum())
    return {
        "shape": list(base.specs[name].shape),
        "base_crc32": checksum,
        "norm": math.sqrt(squares),
        "relative_norm": math.sqrt(squares / base_squares) if base_squares > 0 else None,
        "outlier_share": outliers / max(elements, 1),
        "largest_deviation": max(largest - mean, mean - smallest) / deviation if deviation > 0 else 0.0,
    }


def cosine_matrix(base_dir: Path, differences: Mapping[str, Path]) -> tuple[list[str], np.ndarray]:
    """Cosine of the angle between difference vectors.

    Of factored ones the products are taken without multiplying out: ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ).

    Returns:
        The names, sorted, and a symmetric float64 matrix [n, n]. Near 0: the domains change the model in
        unrelated directions; the row of a zero difference is NaN.
    """
    base = WeightFiles(base_dir)
    opened = open_differences(base, differences)
    vectors = list(opened.values())
    products = np.zeros((len(vectors), len(vectors)))
    held = {
        name: [i for i, vector in enumerate(vectors) if name in vector.shapes]
        for name in sorted({name for vector in vectors for name in vector.shapes})
    }

    def products_of(name: str) -> np.ndarray:
        holders = [vectors[i] for i in held[name]]
        if all(vector.is_factored for vector in holders):
            return _factored_products(holders, name)
        return _streamed_products(base, holders, name)

    with tensor_workers() as pool:
        for indices, found in zip(held.values(), pool.map(products_of, held), strict=True):
            products[np.ix_(indices, indices)] += found
    norms = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore"):
        return list(opened), products / np.outer(norms, norms)


def _streamed_products(base: WeightFiles, vectors: list[Difference], name: str) -> np.ndarray:
    products = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    deltas = [vector.delta(name, torch.float64) for vector in vectors]
    for _, _, values in value_blocks(base, name, deltas):
        products.addmm_(values, values.T)
    return products.numpy()


def _factored_products(vectors: list[Difference], name: str) -> np.ndarray:
    factors = [vector.factors(name) for vector in vectors]
    products = np.zeros((len(vectors), len(vectors)))
    for i, (a_i, b_i, scale_i) in enumerate(factors):
        for j, (a_j, b_j, scale_j) in enumerate(factors[: i + 1]):
            inner = (b_i.double().T @ b_j.double()) * (a_i.double() @ a_j.double().T)
            products[i, j] = products[j, i] = scale_i * scale_j * inner.sum().item()
    return products


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.dot(one.flatten(), other.flatten()).item()

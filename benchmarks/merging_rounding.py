"""How well a merged model is rounded: `python -m benchmarks.merging_rounding KIND FOLDER OUT`, a process of its own.

The reference is Θ + Σ wᵢ(Θᵢ − Θ), with adapters Θ + Σ wᵢ·s·BᵢAᵢ, in float64, rounded once to the nearest bfloat16, ties
to even. Compared number by number, in blocks of rows; of tensors that nothing changes, every number must be the base's.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from benchmarks.merging_child import ADAPTERS, DENSE, WEIGHTS
from benchmarks.merging_data import PEFT_PREFIX, SCALE, WEIGHT_FILES, Shape

SIGNIFICANT_BITS = 8
SMALLEST_EXPONENT = -125
"""Of a normal bfloat16, as frexp counts; smaller numbers have the same spacing."""
ELEMENTS_AT_ONCE = 1 << 22

Report = dict[str, Any]
Numbers = NDArray[np.float64]
Change = Callable[[str, int, int, Numbers], Numbers | None]


class Tensors:
    """The tensors of a folder's safetensors files, read by rows."""

    def __init__(self, folder: Path):
        files = [safe_open(path, "pt") for path in sorted(folder.glob(WEIGHT_FILES))]
        self._slices = {name: file.get_slice(name) for file in files for name in file.keys()}  # noqa: SIM118

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tuple(part.get_shape()) for name, part in self._slices.items()}

    def rows(self, name: str, first: int, last: int) -> torch.Tensor:
        return self._slices[name][first:last]

    def numbers(self, name: str, first: int, last: int) -> Numbers:
        return self.rows(name, first, last).double().numpy()


def main() -> None:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=[DENSE, ADAPTERS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print("\n" + json.dumps(rounding(**vars(arguments))))


def rounding(kind: str, folder: Path, out: Path) -> Report:
    """Compare a merged model with the reference.

    Returns:
        `rounded`: share of correctly rounded numbers among those of tensors that change; `others_kept`: whether all
        other tensors are the base's.

    Raises:
        ValueError: names or shapes of tensors are not the base's.
    """
    base, merged = Tensors(folder / "base"), Tensors(out)
    if base.shapes != merged.shapes:
        raise ValueError(f"{out} has other tensors than {folder / 'base'}")
    change = dense_change(folder) if kind == DENSE else adapter_change(folder)
    right, changed, others_kept = 0, 0, True
    for name, first, last in _blocks(base.shapes):
        start, found = base.numbers(name, first, last), merged.numbers(name, first, last)
        difference = change(name, first, last, start)
        if difference is None:
            others_kept &= np.array_equal(start, found)
        else:
            right += int(np.count_nonzero(nearest_bfloat16(start + difference) == found))
            changed += found.size
    return {"rounded": right / changed, "changed_elements": changed, "others_kept": bool(others_kept)}


def nearest_bfloat16(exact: Numbers) -> Numbers:
    """Round finite numbers once, half to even; torch goes by float32 and rounds twice."""
    unit = np.maximum(np.frexp(exact)[1], SMALLEST_EXPONENT) - SIGNIFICANT_BITS
    return np.ldexp(np.rint(np.ldexp(exact, -unit)), unit)


def dense_change(folder: Path) -> Change:
    """Σ wᵢ(Θᵢ − Θ) of some rows."""
    models = {domain: Tensors(folder / DENSE / domain) for domain in WEIGHTS}

    def change(name: str, first: int, last: int, base: Numbers) -> Numbers:
        total = np.zeros_like(base)
        for domain, model in models.items():
            total += WEIGHTS[domain] * (model.numbers(name, first, last) - base)
        return total

    return change


def adapter_change(folder: Path) -> Change:
    """Σ wᵢ·s·BᵢAᵢ of some rows; nothing of a tensor that has no adapter."""
    adapters = {domain: Tensors(folder / ADAPTERS / domain) for domain in WEIGHTS}
    adapted = next(iter(adapters.values())).shapes

    def change(name: str, first: int, last: int, base: Numbers) -> Numbers | None:
        module = PEFT_PREFIX + name.removesuffix(".weight")
        if f"{module}.lora_A.weight" not in adapted:
            return None
        rank = adapted[f"{module}.lora_A.weight"][0]
        total = np.zeros_like(base)
        for domain, adapter in adapters.items():
            a = adapter.numbers(f"{module}.lora_A.weight", 0, rank)
            b = adapter.numbers(f"{module}.lora_B.weight", first, last)
            total += WEIGHTS[domain] * SCALE * (b @ a)
        return total

    return change


def _blocks(shapes: dict[str, Shape]) -> Iterator[tuple[str, int, int]]:
    """Every tensor in blocks of whole rows: name, first row, one after the last."""
    for name, (rows, *columns) in shapes.items():
        step = max(ELEMENTS_AT_ONCE // int(np.prod(columns)), 1)
        for first in range(0, rows, step):
            yield name, first, min(first + step, rows)


if __name__ == "__main__":
    main()

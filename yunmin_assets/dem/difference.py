"""Difference vectors dᵢ = Θᵢ − Θ, read back tensor by tensor.

A difference is a folder with `difference.safetensors` and `diff.json`:

- *factored*, from a LoRA adapter (`diff_adapter`): `<module>.lora_A` [rank, in] and `<module>.lora_B` [out, rank],
  and in diff.json the scale, so that d = scale · B A;
- *dense*, from a trained checkpoint (`diff_checkpoint`): the tuned values Θᵢ of the tensors that differ from the
  base, under their own names and in their own dtype. d is formed where it is used: the difference of two bfloat16
  numbers needs float32, which is twice the bytes, or is rounded.

diff.json records the kind, the fingerprint of the base, and per tensor statistics and the CRC-32 of the base's
tensor: what is merged is merged into exactly the base that it was made from.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from yunmin_assets.dem.deltas import Delta, DenseDelta, FactoredDelta
from yunmin_assets.dem.weight_files import TensorFile, WeightFiles

TENSORS_FILE = "difference.safetensors"
DESCRIPTION_FILE = "diff.json"
FORMAT = "yunmin-difference/2"
FACTORED, DENSE = "factored", "dense"

Weight = float | Mapping[str, float]
"""The weight of a difference: one for all of its tensors, or one for each by name."""


class Difference:
    """A difference folder; tensors are addressed by the base model's names."""

    def __init__(self, folder: Path):
        """Read the description and the header.

        Raises:
            FileNotFoundError: `folder` is not a difference.
            ValueError: It was written by another version, its tensors are cut off, or they are not those described.
        """
        if not (folder / DESCRIPTION_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {DESCRIPTION_FILE}: make it with diff_adapter or diff_checkpoint"
            )
        description = json.loads((folder / DESCRIPTION_FILE).read_text())
        if description.get("format") != FORMAT:
            raise ValueError(
                f"{folder} is of format {description.get('format')}, expected {FORMAT}: make it again"
            )
        self.folder = folder
        self.base_fingerprint: str = description["base_fingerprint"]
        self.is_factored: bool = description["kind"] == FACTORED
        self.statistics: dict[str, dict[str, Any]] = description["tensors"]
        self.shapes = {name: tuple(entry["shape"]) for name, entry in self.statistics.items()}
        """Of each tensor of the base that this difference changes."""
        self.file = TensorFile(folder / TENSORS_FILE)
        self._require_described_tensors()

    def _require_described_tensors(self) -> None:
        found = {name: spec.shape for name, spec in self.file.specs.items()}
        expected: dict[str, tuple[int, ...]] = {}
        for name, shape in self.shapes.items():
            if self.is_factored:
                rank = self.statistics[name]["rank"]
                key_a, key_b = factor_names(name)
                expected |= {key_a: (rank, *shape[1:]), key_b: (shape[0], rank)}
            else:
                expected[name] = shape
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                raise ValueError(
                    f"tensor {name} is {found.get(name)} in {self.folder / TENSORS_FILE}, {expected.get(name)} by "
                    f"{DESCRIPTION_FILE}: make that difference again"
                )

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor, float]:
        """A [rank, in] and B [out, rank], float32, and the scale of one tensor of a factored difference."""
        a, b = (self.file.read(key).float() for key in factor_names(name))
        return a, b, self.statistics[name]["scale"]

    def dense(self, name: str, base: WeightFiles) -> torch.Tensor:
        """The difference of one tensor in full, float32. `base` is read where the difference is dense."""
        if self.is_factored:
            a, b, scale = self.factors(name)
            return scale * (b @ a)
        return self.file.read(name).float() - base.read(name).float()

    def stored_bytes(self, name: str) -> int:
        """What the difference holds of one tensor."""
        keys = factor_names(name) if self.is_factored else [name]
        return sum(self.file.specs[key].bytes for key in keys)

    def delta(self, name: str, dtype: torch.dtype) -> Delta:
        """The difference of one tensor block by block, in float32 or float64."""
        if not self.is_factored:
            return DenseDelta(self.file, name)
        key_a, key_b = factor_names(name)
        entry = self.statistics[name]
        return FactoredDelta(self.file, key_a, key_b, entry["scale"], tuple(entry["shape"]), dtype)


def factor_names(name: str) -> tuple[str, str]:
    """Under which names a factored difference holds A and B of a tensor."""
    module = name.removesuffix(".weight")
    return f"{module}.lora_A", f"{module}.lora_B"


def open_differences(base: WeightFiles, diffs: Mapping[str, Path]) -> dict[str, Difference]:
    """Open differences in the order of their names and make sure they belong to this base.

    Raises:
        ValueError: There is none, or one was made from another base or has a tensor that does not fit.
    """
    if not diffs:
        raise ValueError("no differences given: at least one domain is needed")
    differences = {domain: Difference(diffs[domain]) for domain in sorted(diffs)}
    for domain, difference in differences.items():
        for name, shape in difference.shapes.items():
            found = base.specs[name].shape if name in base.specs else None
            if found != shape:
                raise ValueError(
                    f"the difference of {domain!r} changes tensor {name} of shape {shape}; "
                    f"{base.folder} has {found}"
                )
            stored = difference.file.specs.get(name)
            if stored is not None and stored.dtype not in (base.specs[name].dtype, "F32"):
                raise ValueError(
                    f"the difference of {domain!r} holds tensor {name} in {stored.dtype}; {base.folder} has it in "
                    f"{base.specs[name].dtype}: make it again from this base"
                )
    fingerprint = base.fingerprint()
    for domain, difference in differences.items():
        if difference.base_fingerprint != fingerprint:
            raise ValueError(
                f"the difference of {domain!r} in {difference.folder} was made from another base than "
                f"{base.folder}: make it again from this one"
            )
    return differences


def require_base_unchanged(difference: Difference, name: str, base_crc32: int, base: WeightFiles) -> None:
    """Refuse a base in one of whose tensors anything differs from the one the difference was made from."""
    if difference.statistics[name]["base_crc32"] != base_crc32:
        raise ValueError(
            f"tensor {name} of {base.folder} is not the one that the difference in {difference.folder} was made "
            "from: make it again from this base"
        )

"""Folders that look like a model of some size with a dense and a factored difference. All numbers are synthetic."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from yunmin_assets.dem import diff_adapter, diff_checkpoint

COLUMNS = 512
RANK = 4
DIFFERENT_ROWS = 256
CONFIG = {"model_type": "llama", "vocab_size": 10, "hidden_size": COLUMNS, "num_hidden_layers": 1}


@dataclass(frozen=True)
class Synthetic:
    """A bfloat16 base and the differences to it."""

    base: Path
    diffs: dict[str, Path]
    weights: dict[str, float]


def make_synthetic(folder: Path, rows: list[int]) -> Synthetic:
    """One shard per entry of `rows`, with one matrix of so many rows, and a vector that nothing touches.

    Args:
        rows: Multiples of 256, each row a KiB.
    """
    base, tuned, adapter = (folder / name for name in ("base", "tuned", "adapter"))
    for path in (base, tuned, adapter):
        path.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    weight_map, factors = {}, {}
    for i, count in enumerate(rows):
        file, name = f"model-{i}.safetensors", f"layers.{i}.proj"
        matrix = torch.randn(DIFFERENT_ROWS, COLUMNS, generator=generator).repeat(count // DIFFERENT_ROWS, 1)
        tensors = {f"{name}.weight": matrix.bfloat16(), f"layers.{i}.norm": torch.ones(COLUMNS)}
        save_file(tensors, base / file)
        save_file(tensors | {f"{name}.weight": matrix.mul_(1.01).bfloat16()}, tuned / file)
        weight_map |= dict.fromkeys(tensors, file)
        factors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, COLUMNS, generator=generator)
        factors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(count, RANK, generator=generator)
    for path in (base, tuned):
        (path / "config.json").write_text(json.dumps(CONFIG))
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    save_file(factors, adapter / "adapter_model.safetensors")
    lora = {"peft_type": "LORA", "r": RANK, "lora_alpha": 1.0}
    (adapter / "adapter_config.json").write_text(json.dumps(lora))
    diff_checkpoint(base, tuned, folder / "dense")
    diff_adapter(base, adapter, folder / "factored")
    diffs = {"dense": folder / "dense", "factored": folder / "factored"}
    return Synthetic(base, diffs, {"dense": 0.7, "factored": -0.01})

"""Tiny real models in folders, for the tests of whole measurements."""

import math
from pathlib import Path

from tests.language_model.toy import save_toy_model, save_toy_tokenizer, toy_model


def save_twins(folder: Path) -> dict[str, Path]:
    """The same random model twice, as base and as merged."""
    return {name: save_toy_model(folder / name, "llama", seed=1) for name in ("base", "merged")}


def save_scaled_model(folder: Path, scale: float) -> Path:
    """A random model whose logits are multiplied: above 1 too sure of itself, by NaN broken."""
    model = toy_model("llama", seed=1)
    model.model.norm.weight.data *= scale
    model.save_pretrained(folder)
    save_toy_tokenizer(folder)
    return folder


def save_broken_model(folder: Path) -> Path:
    """A model none of whose logits is a number."""
    return save_scaled_model(folder, math.nan)

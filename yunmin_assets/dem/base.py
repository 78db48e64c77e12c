"""The base model's folder: take one over, describe one, find broken weights."""

import shutil
from pathlib import Path

import torch
from safetensors import safe_open

from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.language_model.architecture import load_model
from yunmin_assets.language_model.tokenizer import copy_tokenizer, load_tokenizer, vocabulary_size

WEIGHT_PATTERN = "*.safetensors"


def take_over_base(source: Path, tokenizer_dir: Path, target: Path) -> None:
    """Copy a Hugging Face checkpoint and put the graph's tokenizer beside it.

    Raises:
        ValueError: the model was trained with another tokenizer, the tokenizer has ids for which the model has no
            embeddings, or there are no safetensors.
    """
    if not any(source.glob(WEIGHT_PATTERN)):
        raise ValueError(f"{source} holds no safetensors: convert the checkpoint with save_pretrained")
    if (source / "tokenizer.json").exists():
        own, graph = load_tokenizer(source).get_vocab(), load_tokenizer(tokenizer_dir).get_vocab()
        if own != graph:
            raise ValueError(f"{source} was trained with another tokenizer: set tokenizer.path to {source}")
    target.mkdir(parents=True)
    for file in sorted([*source.glob("*.json"), *source.glob(WEIGHT_PATTERN)]):
        shutil.copyfile(file, target / file.name)
    copy_tokenizer(tokenizer_dir, target)
    facts, fits = describe_base(target)
    if not fits:
        raise ValueError(
            f"the tokenizer needs {facts['tokenizer_size']:,} embeddings but {source} has "
            f"{facts['vocab_size']:,}: "
            "set tokenizer.path to the model's own folder"
        )


def describe_base(folder: Path) -> tuple[dict[str, int | str], bool]:
    """Architecture, parameters and vocabulary of a model, and whether its tokenizer fits."""
    model = load_model(folder)
    tokenizer_size = vocabulary_size(load_tokenizer(folder))
    facts: dict[str, int | str] = {
        "architecture": str(model.config.model_type),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocab_size": int(model.config.vocab_size),
        "tokenizer_size": tokenizer_size,
        "base_sha256": WeightFiles(folder).sha256(),
    }
    return facts, tokenizer_size <= int(model.config.vocab_size)


def not_finite_tensors(folder: Path) -> list[str]:
    """Names of the tensors in a checkpoint that hold a NaN or an infinity."""
    broken = []
    for path in sorted(folder.glob(WEIGHT_PATTERN)):
        with safe_open(path, "pt") as file:
            broken += [name for name in file.keys() if not torch.isfinite(file.get_tensor(name)).all()]  # noqa: SIM118
    return broken

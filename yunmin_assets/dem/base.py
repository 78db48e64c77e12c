"""The base model's folder: take one over, describe one, find broken weights."""

from pathlib import Path

import torch
from safetensors import safe_open

from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.language_model.architecture import load_model
from yunmin_assets.language_model.tokenizer import copy_tokenizer, load_tokenizer, vocabulary_size

WEIGHT_PATTERN = "*.safetensors"
CPU = torch.device("cpu")


def take_over_base(source: Path, tokenizer_dir: Path, target: Path) -> None:
    """Write a Hugging Face checkpoint as transformers does, and put the graph's tokenizer beside it.

    A checkpoint may name its tensors otherwise than transformers, or hold tied ones twice. Loaded and saved once, it
    has the names that the models trained from it will have, without which there is no difference between them.

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
    load_model(source, CPU).save_pretrained(target)
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
    weights, model = WeightFiles(folder), load_model(folder, CPU)  # where nobody waits for a GPU
    tokenizer_size = vocabulary_size(load_tokenizer(folder))
    facts: dict[str, int | str] = {
        "architecture": str(model.config.model_type),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocab_size": int(model.config.vocab_size),
        "tokenizer_size": tokenizer_size,
        "base_sha256": weights.sha256(),
    }
    return facts, tokenizer_size <= int(model.config.vocab_size)


def not_finite_tensors(folder: Path) -> list[str]:
    """Names of the tensors in a checkpoint that hold a NaN or an infinity."""
    broken = []
    for path in sorted(folder.glob(WEIGHT_PATTERN)):
        with safe_open(path, "pt") as file:
            broken += [name for name in file.keys() if not torch.isfinite(file.get_tensor(name)).all()]  # noqa: SIM118
    return broken

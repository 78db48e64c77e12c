"""The base model's folder: take one over, describe one."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

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
    """Architecture, parameters and vocabulary of a model, and whether its tokenizer fits; no weights are loaded.

    Raises:
        ValueError: the weights do not fit config.json; names the tensor.
    """
    weights, config = WeightFiles(folder), AutoConfig.from_pretrained(folder, local_files_only=True)
    require_loadable(weights, config)
    tokenizer_size = vocabulary_size(load_tokenizer(folder))
    facts: dict[str, int | str] = {
        "architecture": str(config.model_type),
        "parameters": sum(spec.elements for spec in weights.specs.values() if spec.is_floating),
        "vocab_size": int(config.vocab_size),
        "tokenizer_size": tokenizer_size,
        "base_fingerprint": weights.fingerprint(),
    }
    return facts, tokenizer_size <= int(config.vocab_size)


def require_loadable(weights: WeightFiles, config: PretrainedConfig) -> None:
    """Make sure that weights cover an architecture exactly, by a model that holds no numbers (meta device).

    Of tied parameters one name is enough.

    Raises:
        ValueError: a tensor is missing, unknown, or of another shape; names it.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    wanted = model.state_dict(keep_vars=True)
    loaded = {id(tensor) for name, tensor in wanted.items() if name in weights.specs}
    for name, tensor in wanted.items():
        if id(tensor) not in loaded:
            raise ValueError(f"{weights.folder} lacks tensor {name}, which its config.json asks for")
    for name, spec in weights.specs.items():
        if name not in wanted:
            raise ValueError(f"{weights.folder} holds tensor {name}, which its config.json does not know")
        if spec.shape != wanted[name].shape:
            raise ValueError(
                f"tensor {name} in {weights.folder} is {spec.shape}, "
                f"its config.json asks for {tuple(wanted[name].shape)}"
            )

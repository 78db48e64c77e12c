"""A base model is taken over when it has an embedding for every id of the tokenizer."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.columnar.toy_domain import with_gap_in_ids
from tests.dem.conftest import LORA
from tests.language_model.toy import VOCABULARY, save_toy_model, save_toy_tokenizer, toy_batches
from yunmin_assets.dem import diff_domain_model, merge_checkpoints, train_adapter
from yunmin_assets.dem.base import describe_base, take_over_base
from yunmin_assets.dem.weight_files import TensorSpec, encode_head
from yunmin_assets.language_model import load_model, load_tokenizer
from yunmin_assets.language_model.architecture import use_device


def save_llama(folder: Path, vocab_size: int) -> Path:
    """A tiny model without a tokenizer."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes)).save_pretrained(folder)
    return folder


def test_gaps_in_the_ids_need_embeddings_too(tmp_path: Path) -> None:
    save_toy_tokenizer(tmp_path / "plain")
    tokenizer = with_gap_in_ids(tmp_path / "plain", tmp_path / "tokenizer")
    narrow = save_llama(tmp_path / "narrow", VOCABULARY)
    with pytest.raises(ValueError, match=r"the tokenizer needs 310 embeddings but .*narrow has 300: set"):
        take_over_base(narrow, tokenizer, tmp_path / "refused")
    take_over_base(save_llama(tmp_path / "wide", VOCABULARY + 10), tokenizer, tmp_path / "model")
    facts, fits = describe_base(tmp_path / "model")
    assert fits and facts["tokenizer_size"] == facts["vocab_size"] == 310


def test_a_model_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    source = save_llama(tmp_path / "source", VOCABULARY + 10)
    save_toy_tokenizer(tmp_path / "plain")
    tokenizer = with_gap_in_ids(tmp_path / "plain", tmp_path / "tokenizer")
    shutil.copytree(tmp_path / "plain", source, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"was trained with another tokenizer: set tokenizer.path to"):
        take_over_base(source, tokenizer, tmp_path / "model")


def with_tied_head(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**weights, "lm_head.weight": weights["backbone.embeddings.weight"].clone()}


def without_prefix(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("backbone."): tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("rename", [with_tied_head, without_prefix])
def test_a_checkpoint_with_tensor_names_of_its_own_can_be_trained_and_merged(
    tmp_path: Path, rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], method: str
) -> None:
    source = save_toy_model(tmp_path / "source", "mamba2")
    logits = load_model(source)(torch.arange(20)[None]).logits
    weights = rename(load_file(source / "model.safetensors"))
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    base = tmp_path / "base"
    take_over_base(source, source, base)
    assert torch.equal(load_model(base)(torch.arange(20)[None]).logits, logits)
    training = LORA.training.model_copy(update={"steps": 2})
    config = LORA.model_copy(update={"method": method, "training": training})
    train_adapter(
        base, toy_batches(load_tokenizer(base), "law"), config, tmp_path / "law", tmp_path / "state"
    )
    diff_domain_model(base, tmp_path / "law", tmp_path / "diff")
    merge_checkpoints(base, {"law": tmp_path / "diff"}, {"law": 1.0}, tmp_path / "merged")
    changed = load_model(tmp_path / "merged")(torch.arange(20)[None]).logits
    assert not torch.allclose(changed, logits)
    if method == "full":
        torch.testing.assert_close(changed, load_model(tmp_path / "law")(torch.arange(20)[None]).logits)


def test_a_base_is_described_without_the_device_that_trains(tmp_path: Path) -> None:
    folder = save_toy_model(tmp_path / "base", "mamba2")
    use_device("hpu")  # which this machine does not have
    try:
        facts, _ = describe_base(folder)
    finally:
        use_device(None)
    assert facts["parameters"] == sum(
        tensor.numel() for tensor in load_file(folder / "model.safetensors").values()
    )


def test_a_model_larger_than_any_memory_is_described_from_its_headers(tmp_path: Path) -> None:
    source = save_toy_model(tmp_path / "base", "llama")
    config = LlamaConfig.from_pretrained(source)
    config.update({"hidden_size": 1 << 16, "intermediate_size": 1 << 16, "num_hidden_layers": 5})
    config.save_pretrained(source)
    with torch.device("meta"):
        names = LlamaForCausalLM(config).state_dict()
    names.pop("lm_head.weight")  # tied
    specs = {name: TensorSpec("F32", tuple(tensor.shape)) for name, tensor in names.items()}
    head = encode_head(specs)
    size = sum(spec.bytes for spec in specs.values())
    with (source / "model.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)  # a hole, which takes no room on the disk
    facts, fits = describe_base(source)
    assert fits and facts["parameters"] == size // 4 > 6e10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("model.norm.weight"),
            r"base lacks tensor model\.norm\.weight, which its config",
        ),
        (
            lambda weights: weights.update(extra=torch.zeros(1)),
            "holds tensor extra, which its config.json does",
        ),
        (
            lambda weights: weights.update({"model.norm.weight": torch.zeros(7)}),
            r"tensor model\.norm\.weight in .* is \(7,\), its config\.json asks for \(32,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_named(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, tmp_path: Path
) -> None:
    folder = save_toy_model(tmp_path / "base", "llama")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        describe_base(folder)


@pytest.mark.parametrize("architecture", ["mamba", "mamba2", "llama"])
def test_whatever_transformers_saves_is_described(architecture: str, tmp_path: Path) -> None:
    facts, fits = describe_base(save_toy_model(tmp_path / "base", architecture))
    assert fits and facts["architecture"] == architecture

"""Models are built reproducibly, loaded completely, and adapted only where an adapter trains."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import FalconMambaConfig, FalconMambaForCausalLM

from tests.language_model.toy import save_toy_model, toy_model
from yunmin_assets.language_model import load_model, lora_target_modules


@pytest.mark.parametrize("architecture", ["mamba", "mamba2"])
def test_the_seed_decides_the_weights_and_nothing_else_does(architecture):
    torch.manual_seed(123)
    expected_draw = torch.rand(1)
    torch.manual_seed(123)
    first = toy_model(architecture, seed=1).state_dict()
    assert torch.rand(1) == expected_draw, "building a model must not disturb the caller's random state"
    again, other = toy_model(architecture, seed=1).state_dict(), toy_model(architecture, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", ["mamba", "mamba2"])
def test_a_saved_model_loads_with_the_same_logits(architecture, tmp_path):
    model = toy_model(architecture).eval()
    model.save_pretrained(tmp_path)
    ids = torch.arange(20).view(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(ids).logits, model(ids).logits, rtol=0, atol=0)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no config.json"):
        load_model(tmp_path)


def test_a_missing_tensor_is_an_error_and_not_a_random_start(tmp_path):
    save_toy_model(tmp_path, "mamba2")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["backbone.layers.1.mixer.in_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing_keys backbone\.layers\.1\.mixer\.in_proj"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [("mamba", ["in_proj"]), ("mamba2", ["in_proj"]), ("llama", ["q_proj", "v_proj"])],
)
def test_lora_goes_where_it_works_in_each_architecture(architecture, targets):
    assert lora_target_modules(toy_model(architecture)) == targets


def test_falcon_mamba_is_adapted_as_mamba_1():
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 2, "pad_token_id": 0}
    model = FalconMambaForCausalLM(FalconMambaConfig(**sizes))
    assert lora_target_modules(model) == ["in_proj"]
    with pytest.raises(ValueError, match=r"'dt_proj' of a falcon_mamba model: .* never trains"):
        lora_target_modules(model, ["dt_proj"])


def test_x_proj_is_adapted_on_request_except_where_fused_kernels_would_not_call_it(tmp_path, monkeypatch):
    model = toy_model("mamba")
    (tmp_path / "mamba_ssm.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert lora_target_modules(model, ["in_proj", "x_proj"]) == ["in_proj", "x_proj"]
    with pytest.raises(ValueError, match="'x_proj' of a mamba model: the fused kernels of mamba_ssm"):
        lora_target_modules(model.to("meta"), ["in_proj", "x_proj"])


@pytest.mark.parametrize(
    ("architecture", "target", "reason"),
    [
        ("mamba", "dt_proj", "never trains"),
        ("mamba", "out_proj", "fused"),
        ("mamba2", "out_proj", "fused"),
        ("mamba2", "embeddings", "tied"),
        ("llama", "embed_tokens", "tied"),
        ("mamba2", "all-linear", "cannot be adapted"),
        ("mamba2", "x_proj", "matches no linear module.*in_proj"),
        ("mamba", "q_proj", "matches no linear module.*in_proj, x_proj"),
    ],
)
def test_a_target_on_which_lora_fails_is_refused_with_the_reason(architecture, target, reason):
    with pytest.raises(ValueError, match=reason):
        lora_target_modules(
            toy_model(architecture), ["in_proj", target] if architecture != "llama" else [target]
        )

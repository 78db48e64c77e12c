"""The search's model is the merged model for any weights, and its gradient on them is exact."""

import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.dem.test_difference import tuned_copy
from tests.dem.test_merge import IDS, WEIGHTS, logits_of
from tests.language_model.toy import toy_batches
from yunmin_assets.dem import diff_adapter, diff_checkpoint, merge_checkpoints
from yunmin_assets.dem.difference import open_differences
from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.dem.weighted_model import WeightedModel
from yunmin_assets.language_model import load_model, load_tokenizer

KINDS = ["factored", "mixed", "dense"]


def differences_of(trained, kind, folder):
    """Adapters, fully trained models, or one of these among adapters."""
    dense = {"factored": [], "mixed": ["food"], "dense": list(trained.diffs)}[kind]
    diffs = dict(trained.diffs)
    for seed, domain in enumerate(dense):
        diffs[domain] = folder / f"dense {domain}"
        diff_checkpoint(
            trained.base, tuned_copy(trained, folder / f"tuned {domain}", seed=seed), diffs[domain]
        )
    return diffs


def weighted(base, diffs):
    files = WeightFiles(base)
    return WeightedModel(load_model(base), files, open_differences(files, diffs))


def one_per_tensor(model):
    """Weights that are all different."""
    generator = torch.Generator().manual_seed(1)
    return {
        domain: {name: torch.rand((), generator=generator).item() for name in shapes}
        for domain, shapes in model.shapes.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_weighted_model_is_the_merged_model(kind, trained, tmp_path):
    diffs = differences_of(trained, kind, tmp_path)
    model = weighted(trained.base, diffs)
    torch.testing.assert_close(model(IDS), logits_of(load_model(trained.base)), rtol=0, atol=1e-6)
    for number, weights in enumerate([WEIGHTS, one_per_tensor(model)]):
        merge_checkpoints(trained.base, diffs, weights, tmp_path / f"merged {number}")
        model.set_weights(weights)
        merged = logits_of(load_model(tmp_path / f"merged {number}"))
        torch.testing.assert_close(model(IDS), merged, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_on_every_weight_equals_finite_differences(kind, mamba2, tmp_path):
    model = weighted(mamba2.base, differences_of(mamba2, kind, tmp_path))
    model.set_weights(one_per_tensor(model))
    point, step = model.weights.detach().clone(), 2e-2
    batch = next(iter(toy_batches(load_tokenizer(mamba2.base), "law")))

    def loss():
        return model.mean_loss(batch["input_ids"], batch["labels"])

    loss().backward()
    gradient = model.weights.grad.clone()
    assert gradient.shape == (len(model.domains), len(model.tensors))
    touched = [
        (row, column)
        for row, domain in enumerate(model.domains)
        for column, name in enumerate(model.tensors)
        if name in model.shapes[domain]
    ]
    for place in touched[:: max(len(touched) // 12, 1)]:
        with torch.no_grad():
            slopes = []
            for sign in (1, -1):
                model.weights.copy_(point)
                model.weights[place] += sign * step
                slopes.append(loss().item())
        slope = (slopes[0] - slopes[1]) / (2 * step)
        assert gradient[place].item() == pytest.approx(slope, rel=1e-3, abs=2e-4), place
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["weights"]


@torch.no_grad()
def test_a_layer_whose_weight_is_read_instead_of_being_called_is_edited_too(trained, tmp_path):
    """Mamba-1 multiplies by the weight of `dt_proj` itself; peft's own adapter there has no effect."""
    model = load_model(trained.base)
    if model.config.model_type != "mamba":
        pytest.skip("only Mamba-1 reads a weight")
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["dt_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    diff_adapter(trained.base, tmp_path / "adapter", tmp_path / "diff")
    merge_checkpoints(trained.base, {"law": tmp_path / "diff"}, {"law": 0.5}, tmp_path / "merged")
    edited = weighted(trained.base, {"law": tmp_path / "diff"})
    unedited = edited(IDS)
    edited.set_weights({"law": 0.5})
    torch.testing.assert_close(edited(IDS), logits_of(load_model(tmp_path / "merged")), rtol=0, atol=1e-5)
    assert (edited(IDS) - unedited).abs().max() > 1e-4


@torch.no_grad()
def test_the_losses_of_rows_are_summed_tokens_and_pass_over_padding(mamba2):
    model = weighted(mamba2.base, mamba2.diffs)
    labels = IDS.roll(-1, dims=1)
    labels[1, 10:] = -100
    logits = logits_of(load_model(mamba2.base)).double().log_softmax(dim=-1)
    expected = [
        -sum(logits[row, place, labels[row, place]].item() for place in range(count))
        for row, count in ((0, 24), (1, 10))
    ]
    assert model.row_losses(IDS, labels).tolist() == pytest.approx(expected, abs=1e-3)


def test_a_tied_weight_that_is_stored_under_both_names_is_refused_with_the_cure(mamba2, tmp_path):
    base = shutil.copytree(mamba2.base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    tuned = shutil.copytree(base, tmp_path / "tuned")
    save_file({name: x + 0.01 for name, x in tensors.items()}, tuned / "model.safetensors")
    diff_checkpoint(base, tuned, tmp_path / "diff")
    expected = "under two names, backbone.embeddings.weight and lm_head.weight: take the base over first"
    with pytest.raises(ValueError, match=expected):
        weighted(base, {"law": tmp_path / "diff"})

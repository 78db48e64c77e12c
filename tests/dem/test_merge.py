"""The merge is Θ + Σ wᵢdᵢ: against peft, against float64, sharded or not, and never half written."""

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.dem.test_difference import tuned_copy
from tests.language_model.toy import folder_bytes, save_toy_model
from yunmin_assets.dem import Difference, diff_adapter, diff_checkpoint, merge_checkpoints
from yunmin_assets.language_model import load_model, load_tokenizer

WEIGHTS = {"law": 0.7, "food": -0.2, "travel": 0.45}
IDS = torch.arange(48).view(2, 24) % 300


@torch.no_grad()
def logits_of(model):
    return model.eval()(IDS, use_cache=False).logits


@torch.no_grad()
def test_the_merged_logits_equal_those_of_pefts_exact_combination(trained, tmp_path):
    merge_checkpoints(trained.base, trained.diffs, WEIGHTS, tmp_path / "merged")
    combined = load_model(trained.base)
    first, *others = WEIGHTS
    combined = peft.PeftModel.from_pretrained(combined, trained.adapters[first], adapter_name=first)
    for domain in others:
        combined.load_adapter(trained.adapters[domain], adapter_name=domain)
    combined.add_weighted_adapter(list(WEIGHTS), list(WEIGHTS.values()), "dem", combination_type="cat")
    combined.set_adapter("dem")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(merged), logits_of(combined), rtol=0, atol=1e-5)
    assert (logits_of(merged) - logits_of(load_model(trained.base))).abs().max() > 0.01


def float64_sum(base, diffs, weights):
    """The definition, on dense float64 tensors."""
    merged = {name: tensor.double() for name, tensor in load_file(base / "model.safetensors").items()}
    for domain, folder in diffs.items():
        difference = Difference(folder)
        for name in difference.shapes:
            if difference.is_factored:
                a, b, scale = difference.factors(name)
                merged[name] += weights[domain] * scale * (b.double() @ a.double())
            else:
                merged[name] += weights[domain] * difference.dense(name).double()
    return merged


@pytest.mark.parametrize("kinds", ["factored", "dense", "both"])
def test_every_tensor_equals_the_float64_sum(kinds, trained, tmp_path):
    diffs = dict(trained.diffs)
    for seed, domain in enumerate(WEIGHTS):
        if kinds == "dense" or (kinds == "both" and domain == "food"):
            tuned = tuned_copy(trained, tmp_path / f"tuned {domain}", seed)
            diff_checkpoint(trained.base, tuned, tmp_path / f"dense {domain}")
            diffs[domain] = tmp_path / f"dense {domain}"
    merge_checkpoints(trained.base, diffs, WEIGHTS, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, expected in float64_sum(trained.base, diffs, WEIGHTS).items():
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-6, atol=1e-6, msg=name)


def test_a_bfloat16_base_is_rounded_once_at_the_end(mamba2, tmp_path):
    load_model(mamba2.base).bfloat16().save_pretrained(tmp_path / "base")
    diffs = {}
    for domain in WEIGHTS:
        shutil.copytree(mamba2.adapters[domain], tmp_path / domain)
        (tmp_path / domain / "base.json").unlink()  # an adapter from elsewhere records no base
        diff_adapter(tmp_path / "base", tmp_path / domain, tmp_path / f"diff {domain}")
        diffs[domain] = tmp_path / f"diff {domain}"
    merge_checkpoints(tmp_path / "base", diffs, WEIGHTS, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    expected = float64_sum(tmp_path / "base", diffs, WEIGHTS)
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    right = sum((merged[name] == expected[name].to(torch.bfloat16)).sum().item() for name in merged)
    assert right / sum(tensor.numel() for tensor in merged.values()) >= 0.98


def test_a_sharded_base_gives_the_same_tensors_in_the_same_shards(mamba2, tmp_path):
    load_model(mamba2.base).save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    merge_checkpoints(mamba2.base, mamba2.diffs, WEIGHTS, tmp_path / "single")
    merge_checkpoints(tmp_path / "sharded", mamba2.diffs, WEIGHTS, tmp_path / "merged")
    shards = {path.name for path in (tmp_path / "sharded").glob("model*")}
    assert {path.name for path in (tmp_path / "merged").glob("model*")} == shards
    merged, single = (
        load_model(tmp_path / "merged").state_dict(),
        load_model(tmp_path / "single").state_dict(),
    )
    assert all(torch.equal(merged[name], single[name]) for name in single)


def test_parameters_that_no_adapter_touches_stay_bit_for_bit(trained, tmp_path):
    merge_checkpoints(trained.base, trained.diffs, WEIGHTS, tmp_path / "merged")
    before = load_file(trained.base / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    touched = {name for folder in trained.diffs.values() for name in Difference(folder).shapes}
    assert {name for name in before if not torch.equal(before[name], after[name])} == touched
    assert not any(part in name for name in touched for part in ("dt_proj", "A_log", "out_proj", "embed"))


def test_weights_of_zero_give_the_base_back(mamba2, tmp_path):
    merge_checkpoints(mamba2.base, mamba2.diffs, dict.fromkeys(WEIGHTS, 0.0), tmp_path / "merged")
    before = load_file(mamba2.base / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_result_is_a_complete_reproducible_model_folder(mamba2, tmp_path):
    merge_checkpoints(mamba2.base, mamba2.diffs, WEIGHTS, tmp_path / "merged")
    reordered = dict(sorted(WEIGHTS.items(), reverse=True))
    (tmp_path / "again.part").mkdir()
    (tmp_path / "again.part" / "left by a killed run").touch()
    merge_checkpoints(mamba2.base, mamba2.diffs, reordered, tmp_path / "again")
    merged, base = folder_bytes(tmp_path / "merged"), folder_bytes(mamba2.base)
    assert merged == folder_bytes(tmp_path / "again")
    assert merged.keys() == base.keys() | {"merge.json"}
    assert all(merged[name] == base[name] for name in base if name != "model.safetensors")
    record = json.loads(merged["merge.json"])
    assert record["weights"] == WEIGHTS
    assert record["base_sha256"] == Difference(mamba2.diffs["law"]).base_sha256
    assert len(load_tokenizer(tmp_path / "merged")) == 300


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"law": 1.0, "food": 1.0}, r"missing \['travel'\]"),
        ({**WEIGHTS, "sport": 1.0}, r"unknown \['sport'\]"),
        ({**WEIGHTS, "law": float("nan")}, "weight of 'law' is nan"),
        ({**WEIGHTS, "law": -1e300}, "weight of 'law' is -1e\\+300"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(weights, message, mamba2, tmp_path):
    with pytest.raises(ValueError, match=message):
        merge_checkpoints(mamba2.base, mamba2.diffs, weights, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_difference_to_another_base_is_refused(mamba2, tmp_path):
    other = save_toy_model(tmp_path / "other", "mamba2", seed=8)
    with pytest.raises(ValueError, match=r"difference of 'food' .* made from another base"):
        merge_checkpoints(other, mamba2.diffs, WEIGHTS, tmp_path / "merged")
    llama = save_toy_model(tmp_path / "llama", "llama")
    with pytest.raises(ValueError, match=r"'food' changes tensor backbone.* has None"):
        merge_checkpoints(llama, mamba2.diffs, WEIGHTS, tmp_path / "merged")


def test_a_sum_that_leaves_the_range_names_the_tensor_and_leaves_nothing(mamba2, tmp_path):
    load_model(mamba2.base).half().save_pretrained(tmp_path / "base")
    diff_checkpoint(tmp_path / "base", tuned_copy(mamba2, tmp_path / "tuned", scale=0.5), tmp_path / "diff")
    with pytest.raises(ValueError, match=r"tensor .*weight of the merged model is not finite"):
        merge_checkpoints(tmp_path / "base", {"law": tmp_path / "diff"}, {"law": 9e5}, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "diff", "tuned"]


def test_folders_that_cannot_be_used_say_why(mamba2, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(FileExistsError, match="used already holds something"):
        merge_checkpoints(mamba2.base, mamba2.diffs, WEIGHTS, tmp_path / "used")
    with pytest.raises(FileNotFoundError, match="convert the weights to safetensors"):
        merge_checkpoints(tmp_path, mamba2.diffs, WEIGHTS, tmp_path / "merged")
    with pytest.raises(FileNotFoundError, match=r"holds no diff\.json"):
        merge_checkpoints(mamba2.base, {"law": tmp_path}, {"law": 1.0}, tmp_path / "merged")
    with pytest.raises(ValueError, match="at least one domain"):
        merge_checkpoints(mamba2.base, {}, {}, tmp_path / "merged")


def test_an_unfinished_shard_list_names_the_missing_file(mamba2, tmp_path):
    load_model(mamba2.base).save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    shard = sorted((tmp_path / "sharded").glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard.name} is missing"):
        merge_checkpoints(tmp_path / "sharded", mamba2.diffs, WEIGHTS, tmp_path / "merged")


def test_the_written_file_is_what_safetensors_itself_would_hold(mamba2, tmp_path):
    merge_checkpoints(mamba2.base, mamba2.diffs, WEIGHTS, tmp_path / "merged")
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    save_file(tensors, tmp_path / "rewritten.safetensors", metadata={"format": "pt"})
    assert load_file(tmp_path / "rewritten.safetensors").keys() == tensors.keys()
    written = (tmp_path / "merged" / "model.safetensors").stat().st_size
    assert written == (tmp_path / "rewritten.safetensors").stat().st_size

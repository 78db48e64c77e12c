"""The merge is Θ + Σ wᵢdᵢ: against peft, against float64, sharded or not, and never half written."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.dem.test_difference import IN_PROJ, tuned_copy
from tests.language_model.toy import folder_bytes, save_toy_model
from yunmin_assets.dem import Difference, MergeConfig, diff_adapter, diff_checkpoint, merge_checkpoints
from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.language_model import load_model, load_tokenizer

WEIGHTS = {"law": 0.7, "food": -0.2, "travel": 0.45}
IDS = torch.arange(48).view(2, 24) % 300
CORRECTLY_ROUNDED = 0.999


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
    before = {name: tensor.double() for name, tensor in load_file(base / "model.safetensors").items()}
    changes = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    for domain, folder in diffs.items():
        difference = Difference(folder)
        for name in difference.shapes:
            if difference.is_factored:
                a, b, scale = difference.factors(name)
                changes[name] += weights[domain] * scale * (b.double() @ a.double())
            else:
                changes[name] += weights[domain] * (difference.file.read(name).double() - before[name])
    return {name: before[name] + changes[name] for name in before}


def nearest(exact, dtype):
    """Float64 rounded once, half to even; as float64."""
    if dtype != torch.bfloat16:  # numpy rounds to these directly
        return torch.from_numpy(exact.numpy().astype(str(dtype).removeprefix("torch.")).astype("float64"))
    unit = np.frexp(exact.numpy())[1] - 8  # significant bits of bfloat16
    return torch.from_numpy(np.ldexp(np.rint(np.ldexp(exact.numpy(), -unit)), unit))


def base_of(trained, folder, dtype):
    load_model(trained.base).to(dtype).save_pretrained(folder)
    return folder


def make_diffs(trained, base, folder, kinds, scale=0.002):
    """A difference per domain: "factored", "dense", or "both" kinds."""
    diffs = {}
    for seed, domain in enumerate(WEIGHTS):
        diffs[domain] = folder / f"diff {domain}"
        if kinds == "dense" or (kinds == "both" and domain == "food"):
            model = load_model(tuned_copy(trained, folder / f"tuned {domain}", seed, scale))
            model.to(load_model(base).dtype).save_pretrained(folder / f"tuned {domain}")
            diff_checkpoint(base, folder / f"tuned {domain}", diffs[domain])
        else:
            shutil.copytree(trained.adapters[domain], folder / domain)
            (folder / domain / "base.json").unlink()  # an adapter from elsewhere records no base
            diff_adapter(base, folder / domain, diffs[domain])
    return diffs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kinds", ["factored", "dense", "both"])
def test_the_float64_sum_is_rounded_once_to_the_bases_dtype(kinds, dtype, trained, tmp_path):
    base = base_of(trained, tmp_path / "base", dtype)
    diffs = make_diffs(trained, base, tmp_path, kinds)
    merge_checkpoints(base, diffs, WEIGHTS, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {dtype}
    expected = float64_sum(base, diffs, WEIGHTS)
    changed = {name for folder in diffs.values() for name in Difference(folder).shapes}
    right = sum((merged[name].double() == nearest(expected[name], dtype)).sum().item() for name in changed)
    assert right / sum(merged[name].numel() for name in changed) >= CORRECTLY_ROUNDED


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
    assert record["method"] == "sum"
    assert record["base_fingerprint"] == Difference(mamba2.diffs["law"]).base_fingerprint
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


def test_a_base_that_changed_deep_inside_a_touched_tensor_is_refused(mamba2, tmp_path):
    base = shutil.copytree(mamba2.base, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights[IN_PROJ][-1, -1] += 1e-3
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert WeightFiles(base).fingerprint() == WeightFiles(mamba2.base).fingerprint()
    with pytest.raises(
        ValueError, match=rf"tensor {IN_PROJ} of .*base is not the one that the difference in"
    ):
        merge_checkpoints(base, mamba2.diffs, WEIGHTS, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_result_that_is_not_finite_names_the_tensor_and_leaves_nothing(mamba2, tmp_path):
    base = base_of(mamba2, tmp_path / "base", torch.float16)
    diffs = make_diffs(mamba2, base, tmp_path, "dense", scale=0.5)
    with pytest.raises(ValueError, match=r"tensor backbone.* of the merged model is not finite"):
        merge_checkpoints(base, diffs, {**WEIGHTS, "law": 9e5}, tmp_path / "merged")
    assert not [path.name for path in tmp_path.iterdir() if "merged" in path.name]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_broken_number_in_an_untouched_tensor_is_named_too(value, dtype, mamba2, tmp_path):
    base = base_of(mamba2, tmp_path / "base", dtype)
    weights = load_file(base / "model.safetensors")
    weights["backbone.embeddings.weight"][150, 7] = value
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    diffs = make_diffs(mamba2, base, tmp_path, "factored")
    with pytest.raises(
        ValueError, match=r"tensor backbone.embeddings.weight of .*base holds a NaN or an infinity"
    ):
        merge_checkpoints(base, diffs, WEIGHTS, tmp_path / "merged")
    assert not [path.name for path in tmp_path.iterdir() if "merged" in path.name]


@pytest.fixture(scope="module", params=[("dense", torch.bfloat16), ("both", torch.float32)], ids=str)
def exact(request, mamba2, tmp_path_factory):
    """Base and differences whose sums do not depend on how BLAS cuts matrices: it works in float64 or not at all."""
    kinds, dtype = request.param
    folder = tmp_path_factory.mktemp("exact")
    base = base_of(mamba2, folder / "base", dtype)
    return base, make_diffs(mamba2, base, folder, kinds)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    block=st.integers(1, 400),
    method=st.sampled_from(["sum", "ties", "dare"]),
    weights=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
)
def test_the_size_of_blocks_has_no_influence_on_the_bytes(block, method, weights, exact, tmp_path_factory):
    base, diffs = exact
    given = (base, diffs, dict(zip(diffs, weights, strict=True)))
    in_blocks, at_once = merged_both_ways(given, MergeConfig(method=method), block, tmp_path_factory)
    assert folder_bytes(in_blocks) == folder_bytes(at_once)


def test_factored_differences_of_a_16_bit_base_may_be_rounded_otherwise_in_other_blocks(
    mixed, tmp_path_factory
):
    in_blocks, at_once = merged_both_ways((*mixed, WEIGHTS), MergeConfig(), 100, tmp_path_factory)
    one, other = (load_file(folder / "model.safetensors") for folder in (in_blocks, at_once))
    equal = sum((one[name] == other[name]).sum().item() for name in one)
    assert equal / sum(tensor.numel() for tensor in one.values()) >= CORRECTLY_ROUNDED
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=2**-7, atol=0)  # one step of bfloat16


def merged_both_ways(given, config, block, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    merge_checkpoints(*given, folder / "at once", config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yunmin_assets.dem.blocks.BLOCK_ELEMENTS", block)
        merge_checkpoints(*given, folder / "in blocks", config=config)
    return folder / "in blocks", folder / "at once"


@pytest.fixture(scope="module")
def mixed(mamba2, tmp_path_factory):
    """A bfloat16 base with two factored differences and a dense one."""
    folder = tmp_path_factory.mktemp("mixed")
    base = base_of(mamba2, folder / "base", torch.bfloat16)
    load_tokenizer(mamba2.base).save_pretrained(base)
    return base, make_diffs(mamba2, base, folder, "both")


def test_each_tensor_can_have_a_weight_of_its_own(mixed, tmp_path):
    base, diffs = mixed
    by_tensor = {
        domain: {name: WEIGHTS[domain] * i for i, name in enumerate(sorted(Difference(folder).shapes))}
        for domain, folder in diffs.items()
    }
    merge_checkpoints(base, diffs, by_tensor, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert json.loads((tmp_path / "merged" / "merge.json").read_text())["weights"] == by_tensor
    for name in sorted(by_tensor["food"]):
        one_for_all = {domain: by_tensor[domain].get(name, 0.0) for domain in diffs}
        merge_checkpoints(base, diffs, one_for_all, tmp_path / name)
        assert torch.equal(load_file(tmp_path / name / "model.safetensors")[name], merged[name]), name
    del by_tensor["law"][IN_PROJ]
    with pytest.raises(
        ValueError, match=rf"tensors of 'law' must have the same names: missing \['{IN_PROJ}'\]"
    ):
        merge_checkpoints(base, diffs, by_tensor, tmp_path / "refused")
    by_tensor["law"][IN_PROJ] = float("nan")
    with pytest.raises(ValueError, match=rf"weight of 'law' for tensor {IN_PROJ} is nan"):
        merge_checkpoints(base, diffs, by_tensor, tmp_path / "refused")


def test_the_result_says_what_was_done_and_the_log_says_how_far_it_is(mixed, tmp_path):
    base, diffs = mixed
    lines = []
    result = merge_checkpoints(base, diffs, WEIGHTS, tmp_path / "merged", log=lines.append)
    tensors = load_file(base / "model.safetensors")
    size = (base / "model.safetensors").stat().st_size
    stored = sum(Difference(folder).file.size for folder in diffs.values())
    assert result.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert result.tensors == len(tensors)
    assert result.changed_tensors == len(Difference(diffs["food"]).shapes)
    assert (result.shards, result.resumed_shards) == (1, 0)
    assert result.bytes_written == size == (tmp_path / "merged" / "model.safetensors").stat().st_size
    assert sum(tensor.nbytes for tensor in tensors.values()) < result.bytes_read < size + stored
    assert lines[-1].startswith("0 of 0 MB")


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

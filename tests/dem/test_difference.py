"""A difference is exactly tuned minus base, and one that does not belong to its base is refused by name."""

import json
import os
import shutil
import zlib

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.dem.conftest import LORA
from tests.language_model.toy import folder_bytes, save_toy_model, toy_batches, toy_model
from yunmin_assets.dem import Difference, cosine_matrix, diff_adapter, diff_checkpoint, train_adapter
from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.language_model import load_model, load_tokenizer

IN_PROJ = "backbone.layers.0.mixer.in_proj.weight"


def tuned_copy(trained, folder, seed=0, scale=0.01):
    """The base with Gaussian noise on every parameter."""
    model = load_model(trained.base)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def copy_adapter(trained, folder, change_weights=None, **config):
    """The adapter of the law domain, changed."""
    shutil.copytree(trained.adapters["law"], folder)
    if change_weights:
        weights = load_file(folder / "adapter_model.safetensors")
        change_weights(weights)
        save_file(weights, folder / "adapter_model.safetensors")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def with_tensors(source, folder, **changed):
    """A model folder with some tensors replaced."""
    shutil.copytree(source, folder)
    save_file(load_file(folder / "model.safetensors") | changed, folder / "model.safetensors")
    return folder


def test_a_factored_difference_is_what_peft_adds_to_the_base(trained):
    base = load_model(trained.base).double()
    for domain, folder in trained.adapters.items():
        adapted = peft.PeftModel.from_pretrained(
            load_model(trained.base), folder, autocast_adapter_dtype=False
        )
        merged = adapted.double().merge_and_unload().state_dict()
        difference, files = Difference(trained.diffs[domain]), WeightFiles(trained.base)
        assert difference.is_factored
        for name, before in base.state_dict().items():
            expected = merged[name] - before
            if name in difference.shapes:
                found = difference.dense(name, files).double()
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
                statistics = difference.statistics[name]
                assert statistics["norm"] == pytest.approx(expected.norm().item(), rel=1e-4)
                ratio = (expected.norm() / before.norm()).item()
                assert statistics["relative_norm"] == pytest.approx(ratio, rel=1e-4)
                assert statistics["rank"] == 4
            else:
                assert expected.abs().max() == 0, name


def test_a_rank_stabilised_adapter_has_its_own_scale(mamba2, tmp_path):
    folder = copy_adapter(mamba2, tmp_path / "adapter", use_rslora=True)
    difference = diff_adapter(mamba2.base, folder, tmp_path / "diff")
    assert difference.statistics[IN_PROJ]["scale"] == 8.0 / 4**0.5
    assert Difference(mamba2.diffs["law"]).statistics[IN_PROJ]["scale"] == 8.0 / 4


def test_a_dense_difference_is_tuned_minus_base(trained, tmp_path):
    difference = diff_checkpoint(trained.base, tuned_copy(trained, tmp_path / "tuned"), tmp_path / "diff")
    before = load_file(trained.base / "model.safetensors")
    after = load_file(tmp_path / "tuned" / "model.safetensors")
    files = WeightFiles(trained.base)
    assert difference.shapes.keys() == before.keys()
    for name in before:
        torch.testing.assert_close(difference.dense(name, files), after[name] - before[name], rtol=0, atol=0)
    elements = sum(tensor.numel() for tensor in before.values())
    outliers = [difference.statistics[name]["outlier_share"] * before[name].numel() for name in before]
    assert sum(outliers) / elements == pytest.approx(0.0027, abs=0.0015)  # Gaussian beyond 3σ


@pytest.mark.parametrize("block", [7, 50, 100_000])
def test_statistics_are_those_of_the_whole_tensor_whatever_the_block(block, mamba2, tmp_path, monkeypatch):
    monkeypatch.setattr("yunmin_assets.dem.blocks.BLOCK_ELEMENTS", block)
    before = load_file(mamba2.base / "model.safetensors")
    tuned = with_tensors(mamba2.base, tmp_path / "tuned", **{IN_PROJ: skewed(before[IN_PROJ])})
    dense = diff_checkpoint(mamba2.base, tuned, tmp_path / "dense")
    factored = diff_adapter(mamba2.base, mamba2.adapters["law"], tmp_path / "factored")
    a, b, scale = factored.factors(IN_PROJ)
    for difference, values in (
        (dense, skewed(before[IN_PROJ]).double() - before[IN_PROJ].double()),
        (factored, scale * (b.double() @ a.double())),
    ):
        values = values.numpy()
        deviations = np.abs(values - values.mean()) / values.std()
        expected = {
            "norm": np.linalg.norm(values),
            "relative_norm": np.linalg.norm(values) / before[IN_PROJ].double().norm().item(),
            "outlier_share": (deviations > 3).mean(),
            "largest_deviation": deviations.max(),
        }
        found = difference.statistics[IN_PROJ]
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
        assert found["base_crc32"] == zlib.crc32(before[IN_PROJ].numpy().tobytes())


def skewed(tensor):
    """Moved on average, and a few elements very far."""
    moved = tensor + 0.1
    moved[3, :4] += 2.0
    return moved


def test_only_tensors_that_changed_are_kept_and_in_their_own_dtype(mamba2, tmp_path):
    load_model(mamba2.base).bfloat16().save_pretrained(tmp_path / "base")
    values = load_file(tmp_path / "base" / "model.safetensors")[IN_PROJ] * 1.5
    tuned = with_tensors(tmp_path / "base", tmp_path / "tuned", **{IN_PROJ: values})
    difference = diff_checkpoint(tmp_path / "base", tuned, tmp_path / "diff")
    stored = load_file(tmp_path / "diff" / "difference.safetensors")
    assert list(stored) == list(difference.shapes) == [IN_PROJ]
    assert stored[IN_PROJ].dtype == torch.bfloat16 and torch.equal(stored[IN_PROJ], values)
    assert (tmp_path / "diff" / "difference.safetensors").stat().st_size < 2 * values.nbytes


def test_a_model_trained_whole_here_stays_float32_over_a_16_bit_base(mamba2, tmp_path):
    load_model(mamba2.base).bfloat16().save_pretrained(tmp_path / "base")
    load_tokenizer(mamba2.base).save_pretrained(tmp_path / "base")
    config = LORA.model_copy(
        update={"method": "full", "training": LORA.training.model_copy(update={"steps": 2})}
    )
    batches = toy_batches(load_tokenizer(mamba2.base), "law")
    train_adapter(tmp_path / "base", batches, config, tmp_path / "tuned", tmp_path / "state")
    difference = diff_checkpoint(tmp_path / "base", tmp_path / "tuned", tmp_path / "diff")
    after = load_file(tmp_path / "tuned" / "model.safetensors")[IN_PROJ]
    before = load_file(tmp_path / "base" / "model.safetensors")[IN_PROJ]
    found = difference.dense(IN_PROJ, WeightFiles(tmp_path / "base"))
    assert after.dtype == torch.float32 and torch.equal(found, after - before.float())
    (tmp_path / "tuned" / "base.json").unlink()
    with pytest.raises(ValueError, match=r"tensor .* is BF16 in .*, but F32 in .*: save the tuned model in"):
        diff_checkpoint(tmp_path / "base", tmp_path / "tuned", tmp_path / "again")


def test_differences_are_the_same_bytes_every_time(mamba2, tmp_path):
    diff_adapter(mamba2.base, mamba2.adapters["law"], tmp_path / "again")
    assert folder_bytes(tmp_path / "again") == folder_bytes(mamba2.diffs["law"])
    tuned = tuned_copy(mamba2, tmp_path / "tuned")
    diff_checkpoint(mamba2.base, tuned, tmp_path / "dense")
    diff_checkpoint(mamba2.base, tuned, tmp_path / "dense again")
    assert folder_bytes(tmp_path / "dense") == folder_bytes(tmp_path / "dense again")


def test_the_cosine_matrix_is_that_of_the_flattened_vectors(mamba2, tmp_path):
    diff_checkpoint(mamba2.base, tuned_copy(mamba2, tmp_path / "tuned"), tmp_path / "dense")
    folders = {**mamba2.diffs, "dense": tmp_path / "dense"}
    names, matrix = cosine_matrix(mamba2.base, folders)
    files, shapes = WeightFiles(mamba2.base), Difference(tmp_path / "dense").shapes

    def flat(folder):
        difference = Difference(folder)
        parts = [
            difference.dense(tensor, files).flatten()
            if tensor in difference.shapes
            else torch.zeros(shape).flatten()
            for tensor, shape in shapes.items()
        ]
        return torch.cat(parts).double().numpy()

    vectors = np.stack([flat(folders[name]) for name in names])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert names == ["dense", "food", "law", "travel"]
    np.testing.assert_allclose(matrix, vectors @ vectors.T, atol=1e-6)
    names, of_factored = cosine_matrix(mamba2.base, mamba2.diffs)  # here nothing is multiplied out
    np.testing.assert_allclose(of_factored, matrix[1:, 1:], atol=1e-6)


def test_an_adapter_of_another_base_is_refused(mamba2, tmp_path):
    other = save_toy_model(tmp_path / "other", "mamba2", seed=9)
    with pytest.raises(ValueError, match="was trained on another base"):
        diff_adapter(other, mamba2.adapters["law"], tmp_path / "diff")


def test_an_adapter_that_does_not_fit_names_the_tensor(mamba2, tmp_path):
    def widen(weights):
        name = f"base_model.model.{IN_PROJ.removesuffix('.weight')}.lora_A.weight"
        weights[name] = torch.zeros(4, 33)

    with pytest.raises(ValueError, match=f"tensor {IN_PROJ} is .*trained on another base"):
        diff_adapter(mamba2.base, copy_adapter(mamba2, tmp_path / "a", widen), tmp_path / "diff")
    other = save_toy_model(tmp_path / "llama", "llama")
    with pytest.raises(ValueError, match=f"adapts {IN_PROJ}, which .*llama does not have"):
        diff_adapter(other, mamba2.adapters["law"], tmp_path / "diff")


def test_a_nan_in_an_adapter_is_named_and_nothing_is_written(mamba2, tmp_path):
    key = f"base_model.model.{IN_PROJ.removesuffix('.weight')}.lora_B.weight"

    def spoil(weights):
        weights[key][0, 0] = float("nan")

    with pytest.raises(ValueError, match=f"tensor {key} .* holds a NaN"):
        diff_adapter(mamba2.base, copy_adapter(mamba2, tmp_path / "a", spoil), tmp_path / "diff")
    assert not (tmp_path / "diff").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is pissa, which changed the base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is olora, which changed the base"),
        ({"alpha_pattern": {"in_proj": 3}}, "alpha_pattern is set"),
        ({"bias": "all"}, "bias is all"),
        ({"peft_type": "IA3"}, "peft_type is IA3"),
    ],
)
def test_an_adapter_that_is_more_than_low_rank_is_refused(config, message, mamba2, tmp_path):
    with pytest.raises(ValueError, match=message):
        diff_adapter(mamba2.base, copy_adapter(mamba2, tmp_path / "a", **config), tmp_path / "diff")


def test_a_lone_or_foreign_adapter_tensor_is_refused(mamba2, tmp_path):
    def cut(weights):
        del weights[f"base_model.model.{IN_PROJ.removesuffix('.weight')}.lora_B.weight"]

    with pytest.raises(ValueError, match="has no partner or is not a plain LoRA matrix"):
        diff_adapter(mamba2.base, copy_adapter(mamba2, tmp_path / "a", cut), tmp_path / "diff")


def test_checkpoints_of_another_vocabulary_architecture_or_shape_are_refused(mamba2, tmp_path):
    larger = toy_model("mamba2")
    larger.resize_token_embeddings(310)
    larger.save_pretrained(tmp_path / "larger")
    with pytest.raises(ValueError, match=r"vocab_size is 300 in .* and 310"):
        diff_checkpoint(mamba2.base, tmp_path / "larger", tmp_path / "diff")
    with pytest.raises(ValueError, match=r"model_type is mamba2 in .* and mamba in"):
        diff_checkpoint(mamba2.base, save_toy_model(tmp_path / "mamba", "mamba"), tmp_path / "diff")
    tuned = tuned_copy(mamba2, tmp_path / "tuned")
    weights = load_file(tuned / "model.safetensors")
    save_file(weights | {IN_PROJ: torch.zeros(3, 3)}, tuned / "model.safetensors")
    with pytest.raises(ValueError, match=rf"tensor {IN_PROJ} is .* but \(3, 3\)"):
        diff_checkpoint(mamba2.base, tuned, tmp_path / "diff")
    save_file(weights | {IN_PROJ: weights[IN_PROJ].half()}, tuned / "model.safetensors")
    with pytest.raises(ValueError, match=rf"tensor {IN_PROJ} is F32 in .*, but F16 in"):
        diff_checkpoint(mamba2.base, tuned, tmp_path / "diff")
    save_file(weights | {"extra.weight": torch.zeros(3)}, tuned / "model.safetensors")
    with pytest.raises(ValueError, match=r"tensor extra.weight is in .*tuned but not in .*base"):
        diff_checkpoint(mamba2.base, tuned, tmp_path / "diff")
    del weights[IN_PROJ]
    save_file(weights, tuned / "model.safetensors")
    with pytest.raises(ValueError, match=f"tensor {IN_PROJ} is in .* but not in"):
        diff_checkpoint(mamba2.base, tuned, tmp_path / "diff")


def test_a_nan_in_a_checkpoint_is_named_and_nothing_is_written(mamba2, tmp_path):
    tuned = tuned_copy(mamba2, tmp_path / "tuned")
    weights = load_file(tuned / "model.safetensors")
    weights[IN_PROJ][1, 2] = float("inf")
    save_file(weights, tuned / "model.safetensors")
    with pytest.raises(ValueError, match=f"tensor {IN_PROJ} of .* holds a NaN or an infinity"):
        diff_checkpoint(mamba2.base, tuned, tmp_path / "diff")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuned"]


def test_a_tensor_of_integers_must_be_the_bases(mamba2, tmp_path):
    base = with_tensors(mamba2.base, tmp_path / "base", counts=torch.tensor([1, 2]))
    tuned = with_tensors(mamba2.base, tmp_path / "tuned", counts=torch.tensor([1, 3]))
    with pytest.raises(ValueError, match="tensor counts is not floating-point and differs"):
        diff_checkpoint(base, tuned, tmp_path / "diff")


def test_a_model_that_equals_its_base_has_no_difference(mamba2, tmp_path):
    same = shutil.copytree(mamba2.base, tmp_path / "same")
    with pytest.raises(ValueError, match="so there is no difference: train it, or leave it out"):
        diff_checkpoint(mamba2.base, same, tmp_path / "diff")
    assert not (tmp_path / "diff").exists()


def test_tensors_that_are_not_those_described_are_refused(mamba2, tmp_path):
    folder = shutil.copytree(mamba2.diffs["law"], tmp_path / "diff")
    tensors = load_file(folder / "difference.safetensors")
    name = next(name for name in tensors if name.endswith("lora_A"))
    for changed in (
        {**tensors, name: tensors[name][:, :-1].contiguous()},
        {**tensors, "another": tensors[name].clone()},
    ):
        save_file(changed, folder / "difference.safetensors")
        with pytest.raises(ValueError, match="make that difference again"):
            Difference(folder)


def test_a_base_with_a_nan_is_blamed_itself(mamba2, tmp_path):
    base = shutil.copytree(mamba2.base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    name = next(iter(Difference(mamba2.diffs["law"]).shapes))
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"tensor {name} of {base} holds a NaN"):
        diff_adapter(base, mamba2.adapters["law"], tmp_path / "diff")


def test_another_tokenizer_of_the_same_size_is_another_vocabulary(mamba2, tmp_path):
    tuned = shutil.copytree(mamba2.base, tmp_path / "tuned")
    tokenizer = json.loads((tuned / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[40:42]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tuned / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="different tokenizers"):
        diff_checkpoint(mamba2.base, tuned, tmp_path / "diff")


def test_a_difference_of_another_version_or_cut_off_is_refused(mamba2, tmp_path):
    folder = shutil.copytree(mamba2.diffs["law"], tmp_path / "diff")
    os.truncate(folder / "difference.safetensors", 2000)
    with pytest.raises(ValueError, match=r"difference.safetensors .*fetch it again"):
        Difference(folder)
    (folder / "diff.json").write_text('{"format": "yunmin-difference/1"}')
    with pytest.raises(
        ValueError, match=r"format yunmin-difference/1, expected yunmin-difference/2: make it again"
    ):
        Difference(folder)

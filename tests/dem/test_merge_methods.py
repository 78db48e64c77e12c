"""TIES, DARE and SLERP in blocks are what they are on whole tensors."""

import shutil

import numpy as np
import pytest
import torch
from peft.utils.merge_utils import ties
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from yunmin_assets.dem import Difference, MergeConfig, diff_adapter, diff_checkpoint, merge_checkpoints
from yunmin_assets.dem.blocks import Block
from yunmin_assets.dem.merge_methods import Touched, _kth_largest, _uniform
from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.language_model import load_model

CONFIG_JSON = '{"model_type": "toy"}'
WEIGHTS = {"food": 0.8, "law": 1.3, "travel": -0.5}
LARGE = 0.02
SHAPES = {"matrix.weight": (60, 50), "bias": (700,)}


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def models(request, tmp_path_factory):
    """A base, three models with changes of many sizes, and their differences."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(7)
    base = {name: torch.randn(shape, generator=generator).to(request.param) for name, shape in SHAPES.items()}
    tuned = {}
    save_model(base, folder / "base")
    for domain in WEIGHTS:
        tuned[domain] = {
            name: (tensor.float() + 0.2 * torch.randn(tensor.shape, generator=generator) ** 3).to(
                request.param
            )
            for name, tensor in base.items()
        }
        if domain != "travel":
            tuned[domain]["bias"] = base["bias"]
        save_model(tuned[domain], folder / f"tuned {domain}")
        diff_checkpoint(folder / "base", folder / f"tuned {domain}", folder / domain)
    return folder, base, tuned


def save_model(tensors, folder):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(CONFIG_JSON)


def merged(models, out, weights, **config):
    folder, _, _ = models
    diffs = {domain: folder / domain for domain in weights}
    merge_checkpoints(folder / "base", diffs, weights, out, config=MergeConfig(**config))
    return load_file(out / "model.safetensors")


def changes(models, name, domains=WEIGHTS):
    """Float64 [models that change the tensor, elements], and their domains."""
    _, base, tuned = models
    changed = [domain for domain in domains if not torch.equal(tuned[domain][name], base[name])]
    return torch.stack([(tuned[d][name].double() - base[name].double()).flatten() for d in changed]), changed


def assert_almost_all_equal(found, exact):
    """Up to one step of rounding, which a sum in another order may take."""
    expected = exact.reshape(found.shape)
    assert (found == expected.to(found.dtype)).double().mean() > 0.995
    torch.testing.assert_close(found.double(), expected, rtol=2 * torch.finfo(found.dtype).eps, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The density 1.0")
@pytest.mark.parametrize("block", [37, 100_000])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_is_that_of_peft(density, block, models, tmp_path, monkeypatch):
    monkeypatch.setattr("yunmin_assets.dem.blocks.BLOCK_ELEMENTS", block)
    found = merged(models, tmp_path / "merged", WEIGHTS, method="ties", density=density)
    _, base, _ = models
    for name in SHAPES:
        differences, domains = changes(models, name)
        kept = [keep_largest(difference, density) for difference in differences]
        weights = torch.tensor([WEIGHTS[domain] for domain in domains], dtype=torch.float64)
        expected = ties(kept, weights, density=1.0)
        assert_almost_all_equal(found[name], base[name].double().flatten() + expected)
        if (
            base[name].dtype == torch.float32 and density < 1
        ):  # where no two magnitudes are equal, peft trims alike
            torch.testing.assert_close(ties(list(differences), weights, density), expected, rtol=0, atol=0)


def keep_largest(values, density):
    """All that are at least as large as the k-th largest."""
    threshold = values.abs().float().sort(descending=True).values[max(1, int(density * len(values))) - 1]
    return torch.where(values.abs().float() >= threshold, values, 0)


def test_the_kth_largest_magnitude_is_found_among_equal_and_extreme_ones(tmp_path):
    values = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 3.0, -3.0, 3.0, 2.9999998, 65504.0, -3e38])
    save_model({"t": torch.zeros_like(values)}, tmp_path / "base")
    save_model({"t": values}, tmp_path / "tuned")
    difference = diff_checkpoint(tmp_path / "base", tmp_path / "tuned", tmp_path / "diff")
    base, delta = WeightFiles(tmp_path / "base"), difference.delta("t", torch.float64)
    ordered = values.abs().sort(descending=True).values
    for k in range(1, len(values) + 1):
        found = _kth_largest(Touched(base, "t", {"law": delta}, {"law": 1.0}, torch.float64), k)
        assert found.item() == ordered[k - 1].item(), k


def test_dare_drops_at_random_and_scales_up_what_stays(models, tmp_path):
    density = 0.3
    found = merged(models, tmp_path / "merged", {"law": 1.0}, method="dare", density=density)
    _, base, _ = models
    difference, _ = changes(models, "matrix.weight", ["law"])
    before = base["matrix.weight"].double().flatten()
    changed = difference[0].abs() > LARGE  # enough not to vanish in rounding
    dropped = changed & (found["matrix.weight"].double().flatten() == before)
    scaled = before + difference[0] / density
    assert dropped[changed].double().mean() == pytest.approx(1 - density, abs=0.04)
    stayed = changed & ~dropped
    assert_almost_all_equal(found["matrix.weight"].flatten()[stayed], scaled[stayed])
    assert torch.equal(found["bias"], base["bias"])


def test_what_dare_drops_depends_on_the_seed_and_the_domain_alone(models, tmp_path):
    config = {"method": "dare", "density": 0.5}
    first = merged(models, tmp_path / "first", {"law": 1.0, "food": 1.0}, **config)
    again = merged(models, tmp_path / "again", {"law": 1.0, "food": 1.0}, **config)
    other = merged(models, tmp_path / "other", {"law": 1.0, "food": 1.0}, **config, seed=1)
    alone = merged(models, tmp_path / "alone", {"law": 1.0}, **config)
    _, base, _ = models
    name = "matrix.weight"
    assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])
    differences, _ = changes(models, name, ["law", "food"])
    changed = (differences.abs() > LARGE).all(dim=0)
    by_both, by_law = ((model[name] == base[name]).flatten()[changed] for model in (first, alone))
    assert by_both.double().mean() == pytest.approx(0.25, abs=0.05)
    assert by_law.double().mean() == pytest.approx(0.5, abs=0.05)
    assert not (by_both & ~by_law).any(), "what law drops does not depend on food"


def test_random_numbers_belong_to_elements_and_not_to_blocks():
    whole = _uniform(5, Block(0, 1000))
    parts = [_uniform(5, Block(first, 7)) for first in range(0, 994, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[:994])
    assert len(set(whole)) == 1000 and 0 <= whole.min() < 0.01 and 0.99 < whole.max() < 1
    assert abs(np.corrcoef(whole, _uniform(6, Block(0, 1000)))[0, 1]) < 0.1


@pytest.mark.parametrize("block", [37, 100_000])
@pytest.mark.parametrize("weight", [0.0, 0.35, 1.0])
def test_slerp_turns_one_model_into_the_other(weight, block, models, tmp_path, monkeypatch):
    monkeypatch.setattr("yunmin_assets.dem.blocks.BLOCK_ELEMENTS", block)
    weights = {"law": 1 - weight, "travel": weight}
    found = merged(models, tmp_path / "merged", weights, method="slerp")
    _, _, tuned = models
    for name in SHAPES:
        first, second = (tuned[domain][name].double() for domain in ("law", "travel"))
        assert_almost_all_equal(found[name], slerp(weight, first, second))


def test_slerp_takes_adapters_of_a_16_bit_base(mamba2, tmp_path):
    load_model(mamba2.base).bfloat16().save_pretrained(tmp_path / "base")
    diffs = {}
    for domain in ("law", "food"):
        adapter = shutil.copytree(mamba2.adapters[domain], tmp_path / domain)
        (adapter / "base.json").unlink()
        diffs[domain] = tmp_path / f"diff {domain}"
        diff_adapter(tmp_path / "base", adapter, diffs[domain])
    weights, config = {"law": 0.5, "food": 0.5}, MergeConfig(method="slerp")
    merge_checkpoints(tmp_path / "base", diffs, weights, tmp_path / "merged", config=config)
    base, found = WeightFiles(tmp_path / "base"), load_file(tmp_path / "merged" / "model.safetensors")
    for name in Difference(diffs["law"]).shapes:
        models = [
            base.read(name).double() + Difference(folder).dense(name, base).double()
            for folder in diffs.values()
        ]
        assert_almost_all_equal(found[name], slerp(0.5, *models))


def slerp(t, first, second):
    """As written in Shoemake 1985."""
    angle = torch.arccos((first * second).sum() / (first.norm() * second.norm()))
    return (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def test_slerp_of_almost_parallel_tensors_is_the_sum(models, tmp_path):
    folder, _, _ = models
    shutil.copytree(folder / "law", tmp_path / "same")
    diffs = {"law": folder / "law", "same": tmp_path / "same"}
    weights = {"law": 0.4, "same": 0.6}
    for method in ("sum", "slerp"):
        config = MergeConfig(method=method)
        merge_checkpoints(folder / "base", diffs, weights, tmp_path / method, config=config)
    found, expected = (load_file(tmp_path / method / "model.safetensors") for method in ("slerp", "sum"))
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WEIGHTS, "slerp merges exactly two differences, there are 3"),
        ({"law": 1.0}, "slerp merges exactly two differences, there are 1"),
        ({"law": 0.5, "food": 0.6}, "weights that sum to 1, those of tensor matrix.weight sum to 1.1"),
    ],
)
def test_slerp_is_refused_where_it_is_not_defined(weights, message, models, tmp_path):
    with pytest.raises(ValueError, match=message):
        merged(models, tmp_path / "merged", weights, method="slerp")
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_nothing_are_refused():
    with pytest.raises(ValidationError, match=r"`density` belongs to `method: ties` and `dare`, not to sum"):
        MergeConfig(density=0.5)
    with pytest.raises(ValidationError, match="greater than 0"):
        MergeConfig(method="ties", density=0.0)
    for config in (MergeConfig(), MergeConfig(method="ties")):
        assert MergeConfig.model_validate(config.model_dump()) == config

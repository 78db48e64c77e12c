"""The search's model is the merged model, its gradient is exact, and its report names the best candidate."""

import pytest
import torch

from tests.dem.test_difference import tuned_copy
from tests.dem.test_merge import IDS, WEIGHTS, logits_of
from tests.language_model.toy import toy_batches
from yunmin_assets.dem import Difference, WeightsConfig, diff_checkpoint, merge_checkpoints, search_weights
from yunmin_assets.dem.weighted_model import WeightedModel
from yunmin_assets.language_model import load_model, load_tokenizer

CONFIG = WeightsConfig(steps=12, batch_size=4, learning_rate=0.1, evaluation_rows=16)


def with_dense_food(trained, folder):
    diff_checkpoint(trained.base, tuned_copy(trained, folder / "tuned"), folder / "dense")
    return {**trained.diffs, "food": folder / "dense"}


def validation_batches(trained):
    tokenizer = load_tokenizer(trained.base)
    return {domain: toy_batches(tokenizer, domain) for domain in trained.diffs}


@pytest.mark.parametrize("kinds", ["factored", "with a dense one"])
@torch.no_grad()
def test_the_weighted_model_is_the_merged_model(kinds, trained, tmp_path):
    diffs = trained.diffs if kinds == "factored" else with_dense_food(trained, tmp_path)
    merge_checkpoints(trained.base, diffs, WEIGHTS, tmp_path / "merged")
    model = WeightedModel(load_model(trained.base), [Difference(diffs[domain]) for domain in WEIGHTS])
    torch.testing.assert_close(model(IDS), logits_of(load_model(trained.base)), rtol=0, atol=1e-6)
    model.weights.copy_(torch.tensor(list(WEIGHTS.values())))
    torch.testing.assert_close(model(IDS), logits_of(load_model(tmp_path / "merged")), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kinds", ["factored", "with a dense one"])
def test_the_gradient_on_the_weights_equals_finite_differences(kinds, mamba2, tmp_path):
    diffs = mamba2.diffs if kinds == "factored" else with_dense_food(mamba2, tmp_path)
    model = WeightedModel(load_model(mamba2.base), [Difference(diffs[domain]) for domain in WEIGHTS])
    point, step = torch.tensor(list(WEIGHTS.values())), 1e-2
    batch = next(iter(toy_batches(load_tokenizer(mamba2.base), "law")))

    def loss_at(weights):
        with torch.no_grad():
            model.weights.copy_(weights)
        return model.mean_loss(batch["input_ids"], batch["labels"])

    loss_at(point).backward()
    for i, derivative in enumerate(model.weights.grad.tolist()):
        shift = step * torch.eye(3)[i]
        with torch.no_grad():
            slope = (loss_at(point + shift) - loss_at(point - shift)).item() / (2 * step)
        assert derivative == pytest.approx(slope, abs=2e-3)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["weights"]


def test_the_chosen_candidate_has_the_lowest_loss_of_all(trained, tmp_path):
    search = search_weights(trained.base, trained.diffs, validation_batches(trained), CONFIG)
    table = {row["candidate"]: row for row in search.candidates.to_pylist()}
    assert list(table) == ["base", "uniform", "only food", "only law", "only travel", "searched"]
    assert table[search.chosen]["mean_nll"] == min(row["mean_nll"] for row in table.values())
    assert search.weights == {domain: table[search.chosen][f"weight/{domain}"] for domain in trained.diffs}
    for row in table.values():
        losses = [row[f"nll/{domain}"] for domain in trained.diffs]
        assert row["mean_nll"] == pytest.approx(sum(losses) / len(losses))
    assert len(search.curve) == CONFIG.steps
    assert search.curve[0].weights == pytest.approx(dict.fromkeys(trained.diffs, 1 / 3))
    assert search.rows == dict.fromkeys(trained.diffs, 16)
    assert search.search_tokens == 12 * 3 * 4 * 24


def test_a_candidates_loss_is_that_of_the_merged_model(mamba2, tmp_path):
    search = search_weights(mamba2.base, mamba2.diffs, validation_batches(mamba2), CONFIG)
    row = search.candidates.to_pylist()[1]
    assert row["candidate"] == "uniform"
    merge_checkpoints(mamba2.base, mamba2.diffs, dict.fromkeys(mamba2.diffs, 1 / 3), tmp_path / "merged")
    model = load_model(tmp_path / "merged")
    for domain, batches in validation_batches(mamba2).items():
        total = 0.0
        for _, batch in zip(range(4), batches, strict=False):
            rows = torch.cat([batch["input_ids"], batch["labels"][:, -1:]], dim=1)
            total += model(rows, labels=rows).loss.item()
        assert row[f"nll/{domain}"] == pytest.approx(total / 4, abs=1e-5)


def test_the_search_lowers_its_own_objective_on_toy_data(mamba2):
    search = search_weights(mamba2.base, mamba2.diffs, validation_batches(mamba2), CONFIG)
    table = {row["candidate"]: row["mean_nll"] for row in search.candidates.to_pylist()}
    assert table["searched"] < table["base"]


def test_a_search_is_the_same_every_time(mamba2):
    searches = [
        search_weights(mamba2.base, mamba2.diffs, validation_batches(mamba2), CONFIG) for _ in range(2)
    ]
    assert searches[0].curve == searches[1].curve
    assert searches[0].candidates.equals(searches[1].candidates)


def test_fixed_weights_are_taken_as_given_and_still_compared(mamba2):
    fixed = {"law": 0.1, "food": -3.0, "travel": 0.0}
    config = CONFIG.model_copy(update={"method": "fixed", "fixed": fixed})
    search = search_weights(mamba2.base, mamba2.diffs, validation_batches(mamba2), config)
    assert search.weights == fixed
    assert (search.chosen, search.curve, search.search_tokens) == ("fixed", [], 0)
    assert search.candidates.column("candidate").to_pylist()[-1] == "fixed"


def test_what_cannot_be_searched_is_refused(mamba2):
    validation = validation_batches(mamba2)
    config = WeightsConfig(method="fixed", fixed={"law": 1.0})
    with pytest.raises(ValueError, match="exactly"):
        search_weights(mamba2.base, mamba2.diffs, validation, config)
    with pytest.raises(ValueError, match="validation data of 'food' holds no row"):
        search_weights(mamba2.base, mamba2.diffs, {**validation, "food": []}, CONFIG)
    with pytest.raises(ValueError, match="no validation data"):
        search_weights(mamba2.base, mamba2.diffs, {}, CONFIG)

"""Searches without a gradient: a grid finds what brute force over merged models finds, TPE keeps its lowest trial."""

import itertools

import pytest
import torch

from tests.dem.interrupted_search import validation_rows
from tests.language_model.toy import TOY_LENGTH
from yunmin_assets.dem import WeightsConfig, merge_checkpoints, search_weights
from yunmin_assets.dem.trial_search import grid_points
from yunmin_assets.language_model import load_model

GRID = WeightsConfig(method="grid", trials=26, largest_weight=0.8, search_rows=4, comparison_rows=4)
TPE = WeightsConfig(method="tpe", trials=14, largest_weight=1.5, search_rows=4, comparison_rows=4)


def search(trained, config):
    return search_weights(trained.base, trained.diffs, validation_rows(trained.base), config)


def loss_of_merged(trained, weights, folder):
    merge_checkpoints(trained.base, trained.diffs, weights, folder)
    model, losses = load_model(folder), []
    for (batch,) in validation_rows(trained.base).values():
        rows = torch.cat([batch["input_ids"], batch["labels"][:, -1:]], dim=1)[:4]
        with torch.no_grad():
            losses.append(model(rows, labels=rows).loss.item())
    return sum(losses) / len(losses)


def test_a_grid_finds_what_brute_force_over_merged_checkpoints_finds(mamba2, tmp_path):
    found = search(mamba2, GRID)
    spaced = [0.0, 0.8]  # two levels, for 3³ would be more than 26 trials
    points = [
        dict(zip(sorted(mamba2.diffs), point, strict=True)) for point in itertools.product(spaced, repeat=3)
    ]
    assert [step.weights for step in found.curve] == points
    losses = [loss_of_merged(mamba2, point, tmp_path / str(place)) for place, point in enumerate(points)]
    assert [step.loss for step in found.curve] == pytest.approx(losses, abs=1e-5)
    assert found.searched == points[losses.index(min(losses))]
    assert found.search_tokens == 8 * 3 * 4 * TOY_LENGTH


@pytest.mark.parametrize(
    ("trials", "domains", "points"), [(64, 3, 64), (63, 3, 27), (64, 2, 64), (64, 6, 64), (2, 1, 2)]
)
def test_a_grid_has_as_many_levels_as_fit_into_the_trials(trials, domains, points):
    config = WeightsConfig(method="grid", trials=trials, largest_weight=0.5)
    grid = list(grid_points([f"d{number}" for number in range(domains)], config))
    assert len(grid) == len(set(grid)) == points
    assert (min(map(min, grid)), max(map(max, grid))) == (0, 0.5)


def test_a_grid_over_too_many_domains_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"over 7 domains .* at least 128 points, and trials is 64: .* or raise trials"
    ):
        list(grid_points([f"d{number}" for number in range(7)], WeightsConfig(method="grid")))


def test_tpe_keeps_its_lowest_trial_and_begins_with_uniform_weights(mamba2):
    found = search(mamba2, TPE)
    assert len(found.curve) == TPE.trials
    assert found.curve[0].weights == pytest.approx(dict.fromkeys(mamba2.diffs, 1 / 3))
    assert found.searched == min(found.curve, key=lambda step: step.loss).weights
    assert all(0 <= weight <= 1.5 for step in found.curve for weight in step.weights.values())
    assert found.search_tokens == 14 * 3 * 4 * TOY_LENGTH


def test_tpe_tries_the_same_weights_every_time_and_others_with_another_seed(mamba2):
    one, same = search(mamba2, TPE), search(mamba2, TPE)
    other = search(mamba2, TPE.model_copy(update={"seed": 1}))
    assert one.curve == same.curve
    assert one.curve[1].weights != other.curve[1].weights

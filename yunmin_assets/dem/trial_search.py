"""Weights by trial: measure the loss on all search rows at many points, and take the lowest. No gradient is needed.

- `grid`: k evenly spaced weights per domain from 0 to the largest, in every combination; k is the largest number with
  kⁿ ≤ trials. What the paper does (arXiv 2406.15570, section 3), and exponential in the number of domains.
- `tpe`: the tree-structured Parzen estimator (Bergstra et al. 2011) of optuna, which begins with uniform weights. It
  keeps no store of its own: asked again after a kill and told the same losses, it gives the same weights.

Price: every trial sends all search rows through the model.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import optuna

from yunmin_assets.dem.config import WeightsConfig
from yunmin_assets.dem.difference import Weight
from yunmin_assets.dem.search_journal import Journal
from yunmin_assets.dem.search_losses import (
    loss_per_token,
    losses_of_rows,
    mean_over_domains,
    require_finite,
)
from yunmin_assets.dem.search_result import SEARCH, Found, SearchStep
from yunmin_assets.dem.search_rows import Rows, count_rows, count_tokens
from yunmin_assets.dem.weighted_model import WeightedModel
from yunmin_assets.progress import Log, Progress, track

optuna.logging.set_verbosity(optuna.logging.ERROR)  # progress is reported through yunmin_assets.progress


def search_grid(model: WeightedModel, rows: Rows, config: WeightsConfig, journal: Journal, log: Log) -> Found:
    """The point of a grid with the lowest loss, the first of equals.

    Raises:
        ValueError: Not even two weights per domain fit into `config.trials`.
        FloatingPointError: A loss is not finite.
    """
    points = list(grid_points(model.domains, config))
    curve = [
        _try(model, rows, dict(zip(model.domains, point, strict=True)), config, journal)
        for point in track(points, log, "points of the grid", len(points))
    ]
    return _best(curve, rows)


def search_tpe(model: WeightedModel, rows: Rows, config: WeightsConfig, journal: Journal, log: Log) -> Found:
    """The trial of optuna's TPE sampler with the lowest loss, the first of equals.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=config.seed))
    study.enqueue_trial(dict.fromkeys(model.domains, min(1 / len(model.domains), config.largest_weight)))
    curve: list[SearchStep] = []
    with Progress(log, "trials", total=config.trials) as progress:
        for _ in range(config.trials):
            trial = study.ask()
            weights: dict[str, Weight] = {
                domain: trial.suggest_float(domain, 0, config.largest_weight) for domain in model.domains
            }
            curve.append(_try(model, rows, weights, config, journal))
            study.tell(trial, curve[-1].loss)
            progress.advance(note=f"loss {curve[-1].loss:.4f}, lowest {min(s.loss for s in curve):.4f}")
    return _best(curve, rows)


def grid_points(domains: list[str], config: WeightsConfig) -> Iterator[tuple[float, ...]]:
    """Every combination of as many evenly spaced weights as fit into `config.trials`."""
    levels = 1
    while (levels + 1) ** len(domains) <= config.trials:
        levels += 1
    if levels == 1:
        raise ValueError(
            f"a grid over {len(domains)} domains ({', '.join(domains)}) has at least {2 ** len(domains):,} points, and "
            f"trials is {config.trials}: search by `gradient` or `tpe`, or raise trials"
        )
    spaced = np.linspace(0, config.largest_weight, levels).tolist()
    return itertools.product(spaced, repeat=len(domains))


def _try(
    model: WeightedModel, rows: Rows, weights: dict[str, Weight], config: WeightsConfig, journal: Journal
) -> SearchStep:
    def measure() -> float:
        model.set_weights(weights)
        losses = loss_per_token(losses_of_rows(model, rows, config.batch_size), rows)
        require_finite(losses, model, rows, weights, "lower domain_weights.largest_weight")
        return mean_over_domains(losses)

    return SearchStep(journal.once(SEARCH, weights, measure), weights, count_rows(rows))


def _best(curve: list[SearchStep], rows: Rows) -> Found:
    best = min(curve, key=lambda step: step.loss)
    return Found(best.weights, curve, len(curve) * count_tokens(rows))

"""What a person wants to see of differences and weights: what changed, how alike domains are, the search."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from yunmin_assets.dem.difference import Difference, cosine_matrix
from yunmin_assets.dem.weights import WeightSearch
from yunmin_assets.plots import bars, curves, heatmap, markdown_table


def describe_difference(difference: Difference) -> tuple[dict[str, int | float], bool, dict[str, str]]:
    """Figures of one difference vector, whether all its statistics are finite, and Markdown by name."""
    statistics = difference.statistics
    norms = {name: float(values["norm"]) for name, values in statistics.items()}
    relative = {name: float(values["relative_norm"] or 0.0) for name, values in statistics.items()}
    figures: dict[str, int | float] = {
        "tensors": len(statistics),
        "norm": math.sqrt(sum(norm * norm for norm in norms.values())),
        "largest_relative_norm": max(relative.values()),
    }
    rows = [
        (name, norms[name], relative[name], values["outlier_share"]) for name, values in statistics.items()
    ]
    by_module = {
        name.removeprefix("backbone.layers.").removesuffix(".weight"): value
        for name, value in relative.items()
    }
    rendered = {
        "per_module": markdown_table(["tensor", "norm", "norm / base norm", "share beyond 3σ"], rows),
        "relative_norms": bars(by_module, title="Change relative to the base", ylabel="norm / base norm"),
    }
    return figures, all(math.isfinite(norm) for norm in norms.values()), rendered


def describe_search(
    found: WeightSearch, differences: Mapping[str, Path]
) -> tuple[dict[str, int | float | str], dict[str, str]]:
    """Figures of a weight search, and Markdown by name."""
    figures: dict[str, int | float | str] = {
        "chosen": found.chosen,
        "search_tokens": found.search_tokens,
        **{f"weight {domain}": weight for domain, weight in found.weights.items()},
    }
    rows = found.candidates.select(["candidate", "mean_nll"]).to_pylist()
    table = [(row["candidate"], row["mean_nll"], math.exp(row["mean_nll"])) for row in rows]
    rendered = {
        "candidates": markdown_table(["candidate", "validation loss (nats/token)", "perplexity"], table)
    }
    if len(differences) > 1:
        names, matrix = cosine_matrix(differences)
        rendered["cosine_between_domains"] = heatmap(
            np.nan_to_num(matrix), names, title="Cosine of difference vectors"
        )
    if found.curve:
        steps = list(range(1, len(found.curve) + 1))
        losses = {"validation loss": (steps, [step.loss for step in found.curve])}
        weights = {name: (steps, [step.weights[name] for step in found.curve]) for name in found.weights}
        rendered["search"] = curves(losses, title="Weight search", xlabel="step", ylabel="nats per token")
        rendered["weights"] = curves(
            weights, title="Weights during the search", xlabel="step", ylabel="weight"
        )
    return figures, rendered


def weights_are_finite(found: WeightSearch) -> bool:
    """Whether every weight is a finite number."""
    return all(math.isfinite(weight) for weight in found.weights.values())


def write_search(found: WeightSearch, path: Path) -> None:
    """Write the weights and all candidates as JSON."""
    content = {
        "weights": found.weights,
        "chosen": found.chosen,
        "rows": found.rows,
        "search_tokens": found.search_tokens,
        "candidates": found.candidates.to_pylist(),
        "curve": [{"loss": step.loss, "weights": step.weights} for step in found.curve],
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

"""What a person wants to see of differences and weights: what changed, how alike domains are, the search."""

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from yunmin_assets.dem.difference import Difference, Weight
from yunmin_assets.dem.difference_statistics import cosine_matrix
from yunmin_assets.dem.merge import MergeResult
from yunmin_assets.dem.weights import WeightSearch
from yunmin_assets.plots import bars, curves, heatmap, markdown_table

MOST_BARS = 32
NOT_FINITE = "not finite"
COSTS = ("training_tokens", "search_tokens", "cpu_seconds")
LAYER = re.compile(r"\.(?P<layer>\d+)\.(?P<kind>.+?)(\.weight)?$")  # .layers.3. as well as .h.3.


def describe_difference(difference: Difference) -> tuple[dict[str, int | float], bool, dict[str, str]]:
    """Figures of one difference vector, whether all its statistics are finite, and Markdown by name."""
    statistics = difference.statistics
    norms = {name: float(values["norm"]) for name, values in statistics.items()}
    relative = {name: float(values["relative_norm"] or 0.0) for name, values in statistics.items()}
    figures: dict[str, int | float] = {
        "tensors": len(statistics),
        "norm": math.sqrt(sum(norm * norm for norm in norms.values())),
        "largest_relative_norm": max(relative.values(), default=0.0),
    }
    rows = [
        (name, norms[name], relative[name], values["outlier_share"], values["largest_deviation"])
        for name, values in statistics.items()
    ]
    rendered = {
        "per_module": markdown_table(
            ["tensor", "norm", "norm / base norm", "share beyond 3σ", "largest, in σ"], rows
        ),
        "relative_norms": _plot_by_module(relative),
    }
    return figures, all(math.isfinite(norm) for norm in norms.values()), rendered


def _plot_by_module(relative: Mapping[str, float]) -> str:
    """A bar per tensor; where they would be too many to be named, a line per kind of tensor over the layers.

    Tensors outside the layers are then in the table only.
    """
    title, label = "Change relative to the base", "norm / base norm"
    if len(relative) <= MOST_BARS:
        short = {
            name.removeprefix("backbone.layers.").removesuffix(".weight"): x for name, x in relative.items()
        }
        return bars(short, title=title, ylabel=label)
    return curves(_over_layers(relative), title=title, xlabel="layer", ylabel=label)


def _over_layers(of_tensors: Mapping[str, float]) -> dict[str, tuple[list[float], list[float]]]:
    """Layers and values for each kind of tensor; tensors outside the layers are left out."""
    found = [(LAYER.search(name), value) for name, value in of_tensors.items()]
    inside = [(int(match["layer"]), match["kind"], value) for match, value in found if match]
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for layer, kind, value in sorted(inside):
        layers, values = lines.setdefault(kind, ([], []))
        layers.append(layer)
        values.append(value)
    return lines


def describe_merge(result: MergeResult) -> dict[str, int | float]:
    """Figures of a merge."""
    return {
        "changed_tensors": result.changed_tensors,
        "bytes_read": result.bytes_read,
        "bytes_written": result.bytes_written,
    }


def mean_weights(weights: Mapping[str, Weight]) -> dict[str, float]:
    """One number per domain: its weight, or the mean where every tensor has its own."""
    return {
        domain: sum(weight.values()) / len(weight) if isinstance(weight, Mapping) else weight
        for domain, weight in weights.items()
    }


def describe_search(
    found: WeightSearch, base_dir: Path, differences: Mapping[str, Path]
) -> tuple[dict[str, int | float | str], dict[str, str]]:
    """Figures of a weight search, and Markdown by name."""
    figures: dict[str, int | float | str] = {
        "method": found.method,
        "chosen": found.chosen,
        "best_single": found.best_single or NOT_FINITE,
        "search_tokens": found.search_tokens,
        "search_cpu_seconds": found.search_cpu_seconds,
        "all_tokens": found.all_tokens,
        **{f"weight {domain}": weight for domain, weight in mean_weights(found.weights).items()},
    }
    rendered = {"candidates": _candidates_table(found), **_plots_of_curve(found)}
    per_tensor = {
        domain: weights for domain, weights in found.searched.items() if isinstance(weights, Mapping)
    }
    if per_tensor:
        rendered["weights_per_tensor"] = _plot_by_tensor(per_tensor)
    if len(differences) > 1:
        names, matrix = cosine_matrix(base_dir, differences)
        rendered["cosine_between_domains"] = heatmap(
            np.nan_to_num(matrix), names, title="Cosine of difference vectors"
        )
    return figures, rendered


def _candidates_table(found: WeightSearch) -> str:
    """Losses, what each candidate cost, and whether it differs from uniform weights."""
    header = ["candidate", "loss (nats/token)", "perplexity", "training tokens", "search tokens", "CPU-s"]
    header += ["against uniform", "95 % interval", "verdict"]
    rows = []
    for row in found.candidates.to_pylist():
        notes = "control, never chosen" if row["is_control"] else ""
        notes = "**chosen**" if row["candidate"] == found.chosen else notes
        cells = [f"{row['candidate']} ({notes})" if notes else row["candidate"]]
        cells += [_number(row["mean_nll"], ".4f", NOT_FINITE), _number(row["perplexity"], ",.2f", "")]
        cells += ["not known" if row[key] is None else row[key] for key in COSTS]
        if row["difference"] is None:
            cells += ["", "", ""]
        else:
            interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
            cells += [f"{row['difference']:+.4f}", interval, row["verdict"]]
        rows.append(cells)
    return markdown_table(header, rows)


def _number(value: float | None, form: str, otherwise: str) -> str:
    return otherwise if value is None else format(value, form)


def _plots_of_curve(found: WeightSearch) -> dict[str, str]:
    """Loss and weights of every step or trial; of trials also the lowest loss so far."""
    if not found.curve:
        return {}
    is_descent = found.method in ("gradient", "per_module")
    what = "step" if is_descent else "trial"
    steps = list(range(1, len(found.curve) + 1))
    losses = [step.loss for step in found.curve]
    lines = {"loss on the search rows": (steps, losses)}
    if not is_descent:
        lines["lowest so far"] = (steps, list(itertools.accumulate(losses, min)))
    means = [mean_weights(step.weights) for step in found.curve]
    by_domain = {domain: (steps, [weights[domain] for weights in means]) for domain in found.searched}
    title = "Weights during the search" + (", mean over tensors" if found.method == "per_module" else "")
    return {
        "search": curves(lines, title="Weight search", xlabel=what, ylabel="nats per token"),
        "weights": curves(by_domain, title=title, xlabel=what, ylabel="weight"),
    }


def _plot_by_tensor(weights: Mapping[str, Mapping[str, float]]) -> str:
    """A plot per domain with a line per kind of tensor over the layers, and all numbers."""
    plots = [
        curves(_over_layers(own), title=f"Weights of {domain}", xlabel="layer", ylabel="weight")
        for domain, own in weights.items()
    ]
    tensors = sorted({name for of_domain in weights.values() for name in of_domain}, key=_in_order_of_layers)
    rows = [(name, *(own.get(name, "") for own in weights.values())) for name in tensors]
    return "\n\n".join([*plots, markdown_table(["tensor", *weights], rows)])


def _in_order_of_layers(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by their value: layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def weights_are_finite(found: WeightSearch) -> bool:
    """Whether every weight is a finite number."""
    return all(math.isfinite(weight) for weight in mean_weights(found.weights).values())


def write_search(found: WeightSearch, path: Path) -> None:
    """Write the weights, how they were found, and all candidates as JSON."""
    content = {
        "weights": found.weights,
        "chosen": found.chosen,
        "searched": found.searched,
        "best_single": found.best_single,
        "method": found.method,
        "search_rows": found.search_rows,
        "comparison_rows": found.comparison_rows,
        "search_tokens": found.search_tokens,
        "search_cpu_seconds": found.search_cpu_seconds,
        "all_tokens": found.all_tokens,
        "candidates": found.candidates.to_pylist(),
        "curve": [asdict(step) for step in found.curve],
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

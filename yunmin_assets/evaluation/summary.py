"""What a person sees of a report on the asset's page, and what its checks say."""

import math
from dataclasses import dataclass
from typing import Any

from yunmin_assets.evaluation.formatting import percent
from yunmin_assets.evaluation.model import BASE, MERGED, Report
from yunmin_assets.evaluation.report import headline
from yunmin_assets.plots import intervals, markdown_table


@dataclass(frozen=True)
class Finding:
    """The outcome of a check."""

    name: str
    passed: bool
    description: str
    blocking: bool = False


def describe_report(report: Report) -> tuple[dict[str, Any], dict[str, str]]:
    """Key figures, and Markdown by name."""
    figures: dict[str, Any] = {
        "headline": headline(report).sentence,
        "synthetic": report.synthetic,
        **{f"perplexity {cell.model} {cell.domain}": cell.perplexity for cell in report.perplexity},
        **{f"accuracy {row.model} {row.benchmark}": row.accuracy for row in report.choices},
    }
    rows = [
        (cell.domain, cell.model, cell.perplexity, f"{cell.low:,.1f}–{cell.high:,.1f}", cell.verdict or "")
        for cell in report.perplexity
    ]
    rendered = {
        "perplexity": markdown_table(["domain", "model", "perplexity", "interval", "against base"], rows)
    }
    if changes := _changes(report):
        rendered["change_against_base"] = intervals(
            changes, title="Perplexity against the base (below 0 is better)", ylabel="change, %"
        )
    if report.choices:
        rendered["multiple_choice"] = markdown_table(
            ["benchmark", "model", "accuracy", "interval", "against base"],
            [
                (
                    row.benchmark,
                    row.model,
                    percent(row.accuracy),
                    f"{percent(row.low)} to {percent(row.high)}",
                    row.against_base.verdict if row.against_base else "",
                )
                for row in report.choices
            ],
        )
    return figures, rendered


def report_checks(report: Report, split_anew: list[str]) -> list[Finding]:
    """What the report says about the model and about itself.

    Args:
        split_anew: domains whose splits changed since the base was trained.
    """
    merged = [cell for cell in report.perplexity if cell.model == MERGED]
    worse = [cell.domain for cell in merged if cell.verdict == "worse"]
    regressed = [row.domain for row in report.changes if row.verdict == "worse"]
    unusable = [
        f"{row.benchmark}, {row.model}: {len(row.left_out)} left out, {len(row.unanswered)} unanswered"
        for row in report.choices
        if row.left_out or row.unanswered
    ]
    anew = (
        f"materialize base_model again for: {', '.join(split_anew)}"
        if split_anew
        else "no domain was split anew"
    )
    return [
        Finding("no_regression", not worse, f"worse: {', '.join(worse)}" if worse else "none is worse"),
        Finding("not_worse_than_before", not regressed, _against_last(report, regressed)),
        Finding("base_never_saw_test", not split_anew, anew),
        Finding("every_item_usable", not unusable, "; ".join(unusable) or "all items"),
    ]


def _against_last(report: Report, regressed: list[str]) -> str:
    if report.last_report is None:
        return "this is the first report"
    if not report.changes:
        return "no domain has 20 documents that both reports measured"
    compared = f"compared on {', '.join(row.domain for row in report.changes)}"
    return f"worse: {', '.join(regressed)}; {compared}" if regressed else compared


def _changes(report: Report) -> dict[str, dict[str, tuple[float, float, float]]]:
    """By model, by domain: change of perplexity in percent with its interval."""
    changes: dict[str, dict[str, tuple[float, float, float]]] = {}
    for cell in report.perplexity:
        found = (cell.difference, cell.difference_low, cell.difference_high)
        if cell.model == BASE or None in found:
            continue
        middle, low, high = (100 * math.expm1(value) for value in found if value is not None)
        changes.setdefault(cell.model, {})[cell.domain] = (middle, low, high)
    return changes

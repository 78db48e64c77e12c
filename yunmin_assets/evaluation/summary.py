"""What a person sees of a report on the asset's page, and what its checks say."""

import math
from dataclasses import dataclass
from typing import Any

from yunmin_assets.evaluation.formatting import percent
from yunmin_assets.evaluation.measure import FEWEST_DOCUMENTS
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


def report_checks(report: Report, unseen: Finding) -> list[Finding]:
    """What the report says about the model and about itself.

    Args:
        unseen: whether the base never saw the test documents, which the report itself does not know.
    """
    unusable = [
        f"{row.benchmark}, {row.model}: {len(row.left_out)} left out, {len(row.unanswered)} unanswered"
        for row in report.choices
        if row.left_out or row.unanswered
    ]
    all_usable = "all items of all benchmarks" if report.choices else "no benchmark is configured"
    return [
        _against_base(report),
        _against_last(report),
        unseen,
        Finding("every_item_usable", not unusable, "; ".join(unusable) or all_usable),
    ]


def _against_base(report: Report) -> Finding:
    """The merged model in perplexity, benchmarks and criteria."""
    cells = [
        cell for cell in report.perplexity if cell.model == MERGED and cell.documents >= FEWEST_DOCUMENTS
    ]
    choices = [row for row in report.choices if row.model == MERGED and row.against_base]
    criteria = [row for row in report.criteria if row.model == MERGED]
    worse = [
        *(f"perplexity on {cell.domain}" for cell in cells if cell.verdict == "worse"),
        *(row.benchmark for row in choices if row.against_base and row.against_base.verdict == "worse"),
        *(f"{row.criterion}, {row.decoding}" for row in criteria if row.verdict == "worse"),
    ]
    compared = f"compared on {len(cells)} domains, {len(choices)} benchmarks and {len(criteria)} criteria of its texts"
    return Finding(
        "no_regression", not worse, f"worse: {', '.join(worse)}; {compared}" if worse else compared
    )


def _against_last(report: Report) -> Finding:
    """The merged model of the last report, on what both measured."""
    name = "not_worse_than_before"
    verdicts = {row.domain: row.verdict for row in report.changes}
    verdicts |= {row.benchmark: row.verdict for row in report.choice_changes}
    if report.last_report is None:
        return Finding(name, True, "this is the first report")
    if not verdicts:
        return Finding(
            name, True, "no domain has 20 documents, and no benchmark an item, that both reports measured"
        )
    worse = [each for each, found in verdicts.items() if found == "worse"]
    compared = f"compared on {', '.join(verdicts)}"
    return Finding(name, not worse, f"worse: {', '.join(worse)}; {compared}" if worse else compared)


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

"""Writes the evaluation report: `report.json` with every number, and `report.html`, one page for people."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from yunmin_assets.evaluation import formatting
from yunmin_assets.evaluation.model import (
    BASE,
    FUNNEL_STAGES,
    JOINT,
    MERGED,
    MINI,
    ChoiceRow,
    FunnelRow,
    PerplexityCell,
    Report,
)
from yunmin_assets.evaluation.page import environment
from yunmin_assets.evaluation.plots import Mark, interval_plot, legend_mark
from yunmin_assets.files import write_whole

TEMPLATE = "report.html.j2"
REPORT_JSON, REPORT_HTML = "report.json", "report.html"
MODEL_LABELS = {
    BASE: "Base",
    "uniform": "Uniform merge",
    MINI: "Domain's own mini",
    MERGED: "Merged (DEM)",
    JOINT: "Joint training",
}
"""Known models in the order of columns, colours and shapes."""
TEXT_SCORES = (
    "bleu_morpheme",
    "bleu_character",
    "chrf",
    "rouge_1_morpheme",
    "rouge_2_morpheme",
    "rouge_l_morpheme",
    "rouge_l_character",
)
"""Fields of `TextScoreRow` in the order of columns."""
MOST_REASONS = 20
"""Items of a benchmark that the page names; the JSON names all."""

Tone = Literal["better", "worse", "mixed", "neutral"]


@dataclass(frozen=True)
class Headline:
    """The verdict in one sentence, in English and Korean."""

    sentence: str
    korean: str
    tone: Tone


@dataclass(frozen=True)
class Tile:
    """One key figure."""

    name: str
    value: str
    detail: str


def write_report(report: Report, out_dir: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into `out_dir`, each whole or not at all.

    Returns:
        The two paths. `Report.model_validate_json` reads the first one back to an equal report.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    json_path, html_path = out_dir / REPORT_JSON, out_dir / REPORT_HTML
    write_whole(json_path, report.model_dump_json(indent=1) + "\n")
    write_whole(html_path, render(report))
    return json_path, html_path


def render(report: Report) -> str:
    """Return the HTML page of a report."""
    return environment().get_template(TEMPLATE).render(_context(report))


def headline(report: Report) -> Headline:
    """The verdict on the merged model against the base, counted over domains."""
    verdicts = Counter(cell.verdict for cell in report.perplexity if cell.model == MERGED and cell.verdict)
    total = verdicts.total()
    if not total:
        return Headline(
            "The merged model has not been compared with its base yet.",
            "병합 모델을 아직 기준 모델과 비교하지 않았습니다.",
            "neutral",
        )
    better, worse, not_shown = (verdicts[name] for name in ("better", "worse", "not shown"))
    domains = "domain" if total == 1 else "domains"
    sentence = (
        f"The merged model is better than its base on {better} of {total} {domains}, worse on {worse}; "
        f"on {not_shown} no difference is shown."
    )
    korean = (
        f"병합 모델은 {total}개 영역 가운데 {better}개에서 기준 모델보다 낫고 {worse}개에서 못하며, "
        f"{not_shown}개에서는 차이가 확인되지 않았습니다."
    )
    tones: dict[tuple[bool, bool], Tone] = {
        (True, False): "better",
        (False, True): "worse",
        (True, True): "mixed",
        (False, False): "neutral",
    }
    return Headline(sentence, korean, tones[bool(better), bool(worse)])


def _context(report: Report) -> dict[str, Any]:
    models = _models(report.perplexity)
    return {
        "report": report,
        "headline": headline(report),
        "tiles": _tiles(report),
        "confidence": f"{report.confidence:.0%}".replace("%", " %"),
        "models": models,
        "model_labels": {model: _label(model) for model in models},
        "cells": {(cell.domain, cell.model): cell for cell in report.perplexity},
        "domains": list(dict.fromkeys(cell.domain for cell in report.perplexity)),
        "legend": [(name, Markup(legend_mark(_series(models).index(name)))) for name in map(_label, models)],
        "change_plot": _change_plot(report.perplexity, models),
        "perplexity_plot": _perplexity_plot(report.perplexity, models),
        "stages": FUNNEL_STAGES,
        "totals": _funnel_totals(report),
        "cost_totals": _cost_totals(report),
        "written_by": _generating_models(report),
        "model_name": _label,
        "choices": _choices(report.choices),
        "choice_models": _in_order(dict.fromkeys(row.model for row in report.choices)),
        "most_reasons": MOST_REASONS,
        "text_scores": TEXT_SCORES,
    }


def _models(cells: Sequence[PerplexityCell]) -> list[str]:
    """Models that were measured, the known ones first and in their usual order."""
    return _in_order(dict.fromkeys(cell.model for cell in cells))


def _in_order(names: Collection[str]) -> list[str]:
    known = [name for name in MODEL_LABELS if name in names]
    return [*known, *(name for name in names if name not in MODEL_LABELS)]


def _choices(rows: Sequence[ChoiceRow]) -> dict[str, dict[str, ChoiceRow]]:
    """By benchmark, by model."""
    by_benchmark: dict[str, dict[str, ChoiceRow]] = {}
    for row in rows:
        by_benchmark.setdefault(row.benchmark, {})[row.model] = row
    return by_benchmark


def _label(model: str) -> str:
    return MODEL_LABELS.get(model, model)


def _series(models: Sequence[str]) -> list[str]:
    """All labels that have a colour: a known model keeps its own whether or not the others were measured."""
    return [*MODEL_LABELS.values(), *(name for name in models if name not in MODEL_LABELS)]


def _generating_models(report: Report) -> list[tuple[str, str]]:
    names = dict.fromkeys(name for generation in report.generations for name in generation.continuations)
    return [(name, _label(name)) for name in _in_order(names)]


def _tiles(report: Report) -> list[Tile]:
    tiles = []
    if change := _mean_change(report.perplexity):
        tiles.append(change)
    if report.funnel:
        totals = _funnel_totals(report)
        sizes = f"{formatting.size(totals.raw_bytes)} → {formatting.size(totals.pruned_bytes)}"
        tiles.append(Tile("Text removed", formatting.percent(1 - totals.kept_share), sizes))
        tiles.append(
            Tile("Training tokens", formatting.count(totals.tokens), f"{len(report.funnel)} domains")
        )
    if report.duplicate_recall:
        recall = report.duplicate_recall
        known = f"of {formatting.count(recall.pairs)} known pairs, {recall.false_removals} false removals"
        tiles.append(Tile("Near-duplicates found", formatting.percent(recall.recall), known))
    if report.cost:
        totals_of_cost = _cost_totals(report)
        processor = f"{formatting.seconds(totals_of_cost['cpu_seconds'])} of CPU, all stages"
        tiles.append(Tile("Time", formatting.seconds(totals_of_cost["wall_seconds"]), processor))
    return tiles


def _mean_change(cells: Sequence[PerplexityCell]) -> Tile | None:
    """Geometric mean over domains of merged / base perplexity."""
    base = {cell.domain: cell.perplexity for cell in cells if cell.model == BASE}
    merged = {cell.domain: cell.perplexity for cell in cells if cell.model == MERGED}
    both = [domain for domain in merged if domain in base]
    if not both:
        return None
    means = [
        math.exp(sum(math.log(values[domain]) for domain in both) / len(both)) for values in (base, merged)
    ]
    detail = f"{formatting.perplexity(means[0])} → {formatting.perplexity(means[1])}, mean over domains"
    return Tile("Perplexity, merged vs base", formatting.signed_percent(means[1] / means[0] - 1), detail)


def _funnel_totals(report: Report) -> FunnelRow:
    fields = [name for name in FunnelRow.model_fields if name != "domain"]
    sums = {field: sum(getattr(row, field) for row in report.funnel) for field in fields}
    return FunnelRow(domain="All domains", **sums)


def _cost_totals(report: Report) -> dict[str, float]:
    totals: dict[str, float] = {
        field: sum(getattr(row, field) for row in report.cost)
        for field in ("wall_seconds", "cpu_seconds", "gpu_seconds", "tokens")
    }
    return totals | {"peak_memory_bytes": max((row.peak_memory_bytes for row in report.cost), default=0)}


def _change_plot(cells: Sequence[PerplexityCell], models: Sequence[str]) -> Markup | None:
    """Change of perplexity against the base, with the interval of the paired difference."""
    marks = [
        Mark(cell.domain, _label(cell.model), *map(math.expm1, interval))
        for cell in cells
        if (interval := _difference_interval(cell)) is not None
    ]
    if not marks:
        return None
    plot = interval_plot(
        marks,
        _series(models),
        label="Change of perplexity against the base per domain and model",
        axis="change of perplexity against the base (left of the line is better)",
        show=formatting.signed_percent,
        tick=formatting.whole_percent,
        reference=0.0,
    )
    return Markup(plot)


def _difference_interval(cell: PerplexityCell) -> tuple[float, float, float] | None:
    if cell.difference is None or cell.difference_low is None or cell.difference_high is None:
        return None
    return cell.difference, cell.difference_low, cell.difference_high


def _perplexity_plot(cells: Sequence[PerplexityCell], models: Sequence[str]) -> Markup | None:
    if not cells:
        return None
    plot = interval_plot(
        [Mark(cell.domain, _label(cell.model), cell.perplexity, cell.low, cell.high) for cell in cells],
        _series(models),
        label="Perplexity per domain and model",
        axis="perplexity per token (logarithmic; lower is better)",
        show=formatting.perplexity,
        tick="{:,.6g}".format,
        logarithmic=True,
    )
    return Markup(plot)

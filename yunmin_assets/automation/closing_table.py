"""The table `make demo` ends with, made from the evaluation report."""

import json
from collections.abc import Sequence
from typing import Any

from yunmin_assets.evaluation.model import FUNNEL_STAGES

MEGABYTE = 1e6


def closing_table(report_json: bytes) -> str:
    """Documents, bytes, tokens, perplexity and seconds per stage as aligned text."""
    report = json.loads(report_json)
    parts = [_funnel(report["funnel"]), _perplexity(report["perplexity"]), _seconds(report["cost"])]
    if recall := report["duplicate_recall"]:
        parts.insert(1, _recall(recall))
    if report["synthetic"]:
        parts.insert(
            0,
            "SYNTHETIC sample corpus: the figures show that the platform works, not what it gains on real text.",
        )
    return "\n\n".join(parts)


def _funnel(rows: list[dict[str, Any]]) -> str:
    header = ["documents (MB of text)", *FUNNEL_STAGES, "train tokens"]
    lines = [
        [
            row["domain"],
            *(_cell(row[f"{stage}_documents"], row[f"{stage}_bytes"]) for stage in FUNNEL_STAGES),
            f"{row['tokens']:,}",
        ]
        for row in rows
    ]
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "domain"} if rows else {}
    if total:
        cells = [_cell(total[f"{stage}_documents"], total[f"{stage}_bytes"]) for stage in FUNNEL_STAGES]
        lines.append(["all domains", *cells, f"{total['tokens']:,}"])
    return _aligned(header, lines)


def _cell(documents: int, size: int) -> str:
    return f"{documents:,} ({size / MEGABYTE:,.2f})"


def _recall(recall: dict[str, Any]) -> str:
    found = recall["pairs"] - recall["residual_pairs"]
    return (
        f"planted near-duplicate pairs (Jaccard ≥ {recall['threshold']}): {found:,} of {recall['pairs']:,} found, "
        f"recall {found / max(recall['pairs'], 1):.4f}; removals without a true partner: {recall['false_removals']:,}"
    )


def _perplexity(cells: list[dict[str, Any]]) -> str:
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    values = {(cell["domain"], cell["model"]): cell for cell in cells}
    domains = dict.fromkeys(cell["domain"] for cell in cells)
    lines = [
        [
            domain,
            *(f"{values[domain, model]['perplexity']:,.1f}" for model in models),
            values[domain, "merged"]["verdict"] or "",
        ]
        for domain in domains
    ]
    return _aligned(["test perplexity", *models, "merged against base"], lines)


def _seconds(rows: list[dict[str, Any]]) -> str:
    lines = [
        [
            row["stage"],
            f"{row['wall_seconds']:,.1f}",
            f"{row['cpu_seconds']:,.1f}",
            f"{row['peak_memory_bytes'] / MEGABYTE:,.0f}",
        ]
        for row in rows
    ]
    return _aligned(["stage", "wall s", "CPU s", "peak MB"], lines)


def _aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [header, *lines]) for column in range(len(header))]
    rule = "  ".join("─" * width for width in widths)
    rows = ["  ".join(_padded(row, widths)).rstrip() for row in [header, *lines]]
    return "\n".join([rows[0], rule, *rows[1:]])


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        row[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
    ]

"""The history page: the same figures over past materializations of the report.

One HTML page that needs nothing but itself, like the report: a line per domain and model over the reports, and tables.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from markupsafe import Markup
from pydantic import ValidationError

from yunmin_assets.evaluation.formatting import moment
from yunmin_assets.evaluation.model import BASE, MERGED, ChoiceRow, PerplexityCell, Report
from yunmin_assets.evaluation.page import environment
from yunmin_assets.evaluation.report import MODEL_LABELS
from yunmin_assets.files import write_whole

HISTORY_FILE = "history.html"
HISTORY_TEMPLATE = "history.html.j2"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 170, 70, 20, 14, 30
RANGE_PADDING = 0.08
MOST_TICKS = 6
SHOWN_MODELS = (BASE, MERGED)


@dataclass(frozen=True)
class Entry:
    """What one past report said."""

    version: str
    """Of its snapshot."""
    report: Report

    def cell(self, domain: str, model: str) -> PerplexityCell | None:
        """A model on a domain, or None where that was not measured."""
        cells = (cell for cell in self.report.perplexity if (cell.domain, cell.model) == (domain, model))
        return next(cells, None)

    def choice(self, benchmark: str, model: str) -> ChoiceRow | None:
        """A model on a benchmark, or None where that was not measured."""
        rows = (row for row in self.report.choices if (row.benchmark, row.model) == (benchmark, model))
        return next(rows, None)


def read_history(reports: Iterable[tuple[str, Path]]) -> tuple[list[Entry], list[str]]:
    """Read past reports.

    Args:
        reports: version and path of each `report.json`, oldest first.

    Returns:
        The entries, and a line for each report that this version cannot read: it is named, not passed over.
    """
    entries, unreadable = [], []
    for version, path in reports:
        try:
            entries.append(Entry(version, Report.model_validate_json(path.read_bytes())))
        except ValidationError as error:
            first = error.errors()[0]
            unreadable.append(
                ": ".join(filter(None, (version, ".".join(map(str, first["loc"])), first["msg"])))
            )
        except OSError as error:
            unreadable.append(f"{version}: {error.strerror}")
    return entries, unreadable


def write_history(entries: Sequence[Entry], unreadable: Sequence[str], folder: Path) -> None:
    """Write `history.html`, oldest report first in the plots and newest first in the tables."""
    domains = sorted({cell.domain for entry in entries for cell in entry.report.perplexity})
    page = (
        environment()
        .get_template(HISTORY_TEMPLATE)
        .render(
            title=entries[-1].report.title if entries else "YunMin EfficientData",
            entries=list(reversed(entries)),
            unreadable=unreadable,
            domains=domains,
            benchmarks=sorted({row.benchmark for entry in entries for row in entry.report.choices}),
            models=[(model, MODEL_LABELS[model]) for model in SHOWN_MODELS],
            plots={domain: Markup(history_plot(entries, domain)) for domain in domains},
        )
    )
    write_whole(folder / HISTORY_FILE, page)


def history_plot(entries: Sequence[Entry], domain: str) -> str:
    """Bits per byte of base and merged model over the reports, as an `<svg>` without colours of its own."""
    lines = {model: _points(entries, domain, model) for model in SHOWN_MODELS}
    values = [value for points in lines.values() for _, value in points]
    label = escape(f"Bits per byte on {domain} over {len(entries)} reports")
    start = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    if not values:
        return f"{start}</svg>"
    low, high = min(values), max(values)
    span = (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low - RANGE_PADDING * span, high + RANGE_PADDING * span

    def position(place: int, value: float) -> tuple[float, float]:
        share = place / (len(entries) - 1) if len(entries) > 1 else 0.5
        x = LEFT + share * (WIDTH - LEFT - RIGHT)
        return x, TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [start, *_axis(low, high), *_ends(entries)]
    for number, model in enumerate(SHOWN_MODELS):
        dots = [position(place, value) for place, value in lines[model]]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(f'<g class="line line-{number}"><polyline points="{path}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in dots]
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _points(entries: Sequence[Entry], domain: str, model: str) -> list[tuple[int, float]]:
    """(place of the report, bits per byte) where a model was measured on a domain."""
    cells = ((place, entry.cell(domain, model)) for place, entry in enumerate(entries))
    return [(place, cell.bits_per_byte) for place, cell in cells if cell and cell.bits_per_byte is not None]


def _axis(low: float, high: float) -> list[str]:
    """Round values with lines through the plot."""
    power = math.floor(math.log10((high - low) / 2))
    step = 10.0**power
    ticks = [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
    parts = []
    for tick in ticks[:: math.ceil(len(ticks) / MOST_TICKS)]:
        y = TOP + (high - tick) / (high - low) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shown = f"{tick:.{max(0, -power)}f}"
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{shown}</text>')
    return parts


def _ends(entries: Sequence[Entry]) -> list[str]:
    """When the oldest and the newest report were made, below their places."""
    first, last = (escape(moment(entry.report.created)) for entry in (entries[0], entries[-1]))
    if len(entries) == 1:
        return [f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">{last}</text>']
    return [
        f'<text class="tick start" x="{LEFT}" y="{HEIGHT - 8}">{first}</text>',
        f'<text class="tick end" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}">{last}</text>',
    ]

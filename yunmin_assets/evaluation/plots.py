"""Dots with intervals as inline SVG.

The SVG carries no colour and no font of its own: the page's style sheet gives both, so that a plot follows light
and dark mode, prints well and shows Korean names in the reader's font. Marks differ in shape as well as colour.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABEL_WIDTH, RIGHT_MARGIN = 900, 210, 30
SERIES_HEIGHT, ROW_PADDING, AXIS_HEIGHT, TOP = 19, 16, 44, 8
MARK = 5.0
TARGET_TICKS = 6
NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
RANGE_PADDING = 0.04
SHAPES = ("circle", "square", "triangle", "diamond", "arrowhead")


@dataclass(frozen=True)
class Mark:
    """One value with its interval."""

    row: str
    series: str
    value: float
    low: float
    high: float


def interval_plot(
    marks: Sequence[Mark],
    series: Sequence[str],
    *,
    label: str,
    axis: str,
    show: Callable[[float], str],
    tick: Callable[[float], str],
    logarithmic: bool = False,
    reference: float | None = None,
) -> str:
    """Draw one row per `Mark.row`, in it one line per series that has a mark there.

    Args:
        marks: in the order of the rows.
        series: names in the order of colours and shapes; a mark's series must be among them.
        label: what the plot shows, for readers who do not see it.
        axis: name and unit of the horizontal axis.
        show: how a value is written.
        tick: how a value is written on the axis.
        logarithmic: equal ratios get equal distances; all values must be above 0.
        reference: a value marked by a vertical line.

    Returns:
        An `<svg>` element; all text in it is escaped.
    """
    rows = list(dict.fromkeys(mark.row for mark in marks))
    scale = _Scale(marks, logarithmic, reference)
    bands: list[str] = []
    dots: list[str] = []
    top = TOP
    for number, row in enumerate(rows):
        lines = [mark for name in series for mark in marks if (mark.row, mark.series) == (row, name)]
        height = len(lines) * SERIES_HEIGHT + ROW_PADDING
        if number % 2 == 0:
            bands.append(f'<rect class="band" x="0" y="{top}" width="{WIDTH}" height="{height}" rx="4"/>')
        dots += _row(row, lines, top, height, series=series, scale=scale, show=show)
        top += height
    parts = [*bands, *_axis(scale, top, axis, tick)]
    if reference is not None:
        x = scale(reference)
        parts.append(f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{top}"/>')
    parts += dots
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {top + AXIS_HEIGHT}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def legend_mark(position: int) -> str:
    """The mark of the series at `position`, as a small SVG for a legend."""
    return f'<svg class="key" viewBox="0 0 14 14" aria-hidden="true">{_shape(position, 7, 7)}</svg>'


class _Scale:
    """Values to horizontal positions."""

    def __init__(self, marks: Sequence[Mark], logarithmic: bool, reference: float | None) -> None:
        self._logarithmic = logarithmic
        values = [value for mark in marks for value in (mark.low, mark.value, mark.high)]
        positions = [
            self._position(value) for value in (*values, *([] if reference is None else [reference]))
        ]
        span = max(positions) - min(positions) or 1.0
        self._first = min(positions) - RANGE_PADDING * span
        self._span = span * (1 + 2 * RANGE_PADDING)

    def __call__(self, value: float) -> float:
        share = (self._position(value) - self._first) / self._span
        return LABEL_WIDTH + share * (WIDTH - LABEL_WIDTH - RIGHT_MARGIN)

    def ticks(self) -> list[float]:
        """Round values inside the range, about six."""
        if self._logarithmic:
            powers = range(math.floor(self._first), math.ceil(self._first + self._span) + 1)
            for steps in ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,)):
                inside = self._inside([step * 10.0**power for power in powers for step in steps])
                if len(inside) <= TARGET_TICKS + 2:
                    return inside
            return inside
        rough = self._span / TARGET_TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(nice * unit for nice in NICE_STEPS if nice * unit >= rough * 0.999)
        return self._inside([step * number for number in range(*self._steps(step))])

    def _steps(self, step: float) -> tuple[int, int]:
        return math.floor(self._first / step), math.ceil((self._first + self._span) / step) + 1

    def _inside(self, values: list[float]) -> list[float]:
        return [value for value in values if self._first <= self._position(value) <= self._first + self._span]

    def _position(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value


def _row(
    name: str,
    lines: Sequence[Mark],
    top: float,
    height: float,
    *,
    series: Sequence[str],
    scale: _Scale,
    show: Callable[[float], str],
) -> list[str]:
    parts = [f'<text class="row" x="10" y="{top + height / 2 + 4:.1f}">{escape(name)}</text>']
    for number, mark in enumerate(lines):
        y = top + ROW_PADDING / 2 + (number + 0.5) * SERIES_HEIGHT
        place = series.index(mark.series)
        said = f"{mark.series}: {show(mark.value)} ({show(mark.low)} to {show(mark.high)})"
        parts.append(
            f'<g class="series-{place}"><title>{escape(said)}</title>'
            f'<line x1="{scale(mark.low):.1f}" x2="{scale(mark.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f"{_shape(place, scale(mark.value), y)}</g>"
        )
    return parts


def _axis(scale: _Scale, y: float, name: str, tick: Callable[[float], str]) -> list[str]:
    parts = [f'<line class="axis" x1="{LABEL_WIDTH}" x2="{WIDTH - RIGHT_MARGIN}" y1="{y}" y2="{y}"/>']
    for value in scale.ticks():
        x = scale(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y + 16}">{escape(tick(value))}</text>')
    middle = (LABEL_WIDTH + WIDTH - RIGHT_MARGIN) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{y + 36}">{escape(name)}</text>')
    return parts


def _shape(place: int, x: float, y: float) -> str:
    kind = SHAPES[place % len(SHAPES)]
    tag = f'class="mark series-{place}"'
    if kind == "circle":
        return f'<circle {tag} cx="{x:.1f}" cy="{y:.1f}" r="{MARK}"/>'
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.1), (1.05, 0.9), (-1.05, 0.9)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "arrowhead": [(0, 1.1), (1.05, -0.9), (-1.05, -0.9)],
    }[kind]
    points = " ".join(f"{x + dx * MARK:.1f},{y + dy * MARK:.1f}" for dx, dy in corners)
    return f'<polygon {tag} points="{points}"/>'

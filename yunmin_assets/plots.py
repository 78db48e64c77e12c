"""Small plots and tables as Markdown, for the metadata page of an asset.

Plots are PNG data URIs, so that they need no server and no file beside the event log.
"""

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 6.0, 2.6, 90
CELL_WIDTH_INCHES, CELL_HEIGHT_INCHES, LABEL_INCHES = 0.65, 0.5, 1.2
LABEL_CHARACTERS = 20
DOT_WIDTH_INCHES, DODGE = 0.16, 0.9
DOT_STYLE: dict[str, Any] = {"markersize": 4, "linewidth": 1, "capsize": 2}
DOT_SHAPES = "os^Dv"
ACCENT = "#3b6fb6"
BREAK_HERE = r"\g<0>`&#8203;`"
_LONG_WORD = re.compile(r"\S{32}(?=\S)")
_SPACE = re.compile(r"\s+")
_SPAN_OR_SYNTAX = re.compile(r"[^`|\s](?:[^`|]*[^`|\s])?|[`|]")  # a span loses spaces at its ends


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped so that text cannot break it."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def literal(text: str) -> str:
    """Markdown that shows a text as it is, on one line: code spans, in which neither Markdown nor HTML has a meaning.

    Backticks and the `|` of tables have one even there: they stand between spans, as character references. So do
    zero-width spaces, where long words may be broken that would make a table wider than the page.
    """

    def shown(found: re.Match[str]) -> str:
        part = found[0]
        return f"&#{ord(part)};" if part in "`|" else f"`{_LONG_WORD.sub(BREAK_HERE, part)}`"

    return _SPAN_OR_SYNTAX.sub(shown, _SPACE.sub(" ", text))


def histogram(
    values: Sequence[float] | np.ndarray,
    *,
    title: str,
    xlabel: str,
    marks: Mapping[str, float] | None = None,
    logarithmic: bool = False,
) -> str:
    """A histogram; `marks` are labelled vertical lines. `logarithmic` spaces the bins by ratio."""
    data = np.asarray(values, dtype=float)
    data = data[np.isfinite(data) & (data > 0)] if logarithmic else data[np.isfinite(data)]
    figure, axes = _figure(title, xlabel, "documents")
    if data.size:
        bins = (
            np.geomspace(data.min(), data.max() * 1.001, 41)
            if logarithmic
            else np.histogram_bin_edges(data, bins=40)
        )
        axes.hist(data, bins=bins.tolist(), color=ACCENT)
    if logarithmic:
        axes.set_xscale("log")
    for name, position in (marks or {}).items():
        axes.axvline(position, color="#c0392b", linewidth=1)
        axes.text(position, axes.get_ylim()[1] * 0.92, f" {name}", fontsize=7, color="#c0392b")
    return _markdown(figure, title)


def bars(values: Mapping[str, float], *, title: str, ylabel: str) -> str:
    """One bar per entry."""
    figure, axes = _figure(title, "", ylabel)
    axes.bar(range(len(values)), list(values.values()), color=ACCENT)
    _name_columns(axes, list(values))
    return _markdown(figure, title)


def intervals(
    series: Mapping[str, Mapping[str, tuple[float, float, float]]], *, title: str, ylabel: str
) -> str:
    """A dot with its interval per entry of (value, low, high), a colour and shape per series, and a line at zero.

    Args:
        series: by name of the series, by label on the horizontal axis.
    """
    labels = list(dict.fromkeys(label for values in series.values() for label in values))
    width = max(WIDTH_INCHES, DOT_WIDTH_INCHES * len(labels) * (len(series) + 1))
    figure, axes = _figure(title, "", ylabel, width=width)
    axes.axhline(0, color="black", linewidth=0.8)
    for number, (name, values) in enumerate(series.items(), start=1):
        middle, low, high = np.array(list(values.values())).T
        shift = (number / (len(series) + 1) - 0.5) * DODGE
        places = [labels.index(label) + shift for label in values]
        lengths = np.maximum([middle - low, high - middle], 0)  # a skewed interval may leave its value out
        shape = DOT_SHAPES[number % len(DOT_SHAPES)]
        axes.errorbar(places, middle, lengths, fmt=shape, label=name, **DOT_STYLE)
    _name_columns(axes, labels)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _markdown(figure, title)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str, xlabel: str, ylabel: str
) -> str:
    """One line per entry of (x, y)."""
    figure, axes = _figure(title, xlabel, ylabel)
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, linewidth=1.3)
    if len(series) > 1:
        axes.legend(fontsize=7, frameon=False)
    return _markdown(figure, title)


def heatmap(
    matrix: np.ndarray, labels: Sequence[str], *, title: str, xlabel: str = "", ylabel: str = ""
) -> str:
    """A square matrix with its values written into the cells.

    Counts (integers) are shaded by their magnitude, so that a few beside very many are still seen; zeros are quiet.
    """
    height = max(HEIGHT_INCHES, CELL_HEIGHT_INCHES * len(labels) + LABEL_INCHES)
    width = max(WIDTH_INCHES, CELL_WIDTH_INCHES * len(labels) + LABEL_INCHES)
    figure, axes = _figure(title, xlabel, ylabel, width=width, height=height)
    is_count = np.issubdtype(matrix.dtype, np.integer)
    shade = np.log1p(matrix) if is_count else matrix
    lightest = 0.0 if is_count else float(shade.min())
    axes.imshow(shade, cmap="Blues", aspect="auto", vmin=lightest)
    _name_columns(axes, labels)
    axes.set_yticks(range(len(labels)), [_shortened(label) for label in labels])
    middle = (float(shade.max()) + lightest) / 2
    for (row, column), value in np.ndenumerate(matrix):
        text = f"{int(value):,}" if is_count else f"{value:.2f}"
        color = "white" if shade[row, column] > middle else "lightgray" if is_count and not value else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    return _markdown(figure, title)


def _name_columns(axes: Axes, labels: Sequence[str]) -> None:
    names = [_shortened(label) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=30, ha="right", rotation_mode="anchor")


def _shortened(label: str) -> str:
    """A name that fits beside a plot: names of domains often differ at their end."""
    half = LABEL_CHARACTERS // 2
    return label if len(label) <= LABEL_CHARACTERS else f"{label[:half]}…{label[-half:]}"


def _figure(
    title: str, xlabel: str, ylabel: str, *, width: float = WIDTH_INCHES, height: float = HEIGHT_INCHES
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(xlabel, fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _markdown(figure: Figure, title: str) -> str:
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return f"![{title}](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"


def _cell(value: object) -> str:
    if isinstance(value, float):
        value = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    elif isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ⏎ ")

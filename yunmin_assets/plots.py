"""Small plots and tables as Markdown, for the metadata page of an asset.

Plots are PNG data URIs, so that they need no server and no file beside the event log.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 6.0, 2.6, 90
ACCENT = "#3b6fb6"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped so that text cannot break it."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


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
            else np.linspace(data.min(), data.max() + 1e-9, 41)
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
    axes.bar(list(values), list(values.values()), color=ACCENT)
    axes.tick_params(axis="x", labelrotation=20)
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
    """A square matrix with its values written into the cells."""
    figure, axes = _figure(title, xlabel, ylabel, height=max(HEIGHT_INCHES, 0.5 * len(labels) + 1.2))
    axes.imshow(matrix, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(labels)), labels, rotation=20)
    axes.set_yticks(range(len(labels)), labels)
    middle = (float(np.max(matrix)) + float(np.min(matrix))) / 2 if matrix.size else 0.0
    for (row, column), value in np.ndenumerate(matrix):
        text = f"{int(value):,}" if np.issubdtype(matrix.dtype, np.integer) else f"{value:.2f}"
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=7,
            color="white" if value > middle else "black",
        )
    return _markdown(figure, title)


def _figure(title: str, xlabel: str, ylabel: str, height: float = HEIGHT_INCHES) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, layout="constrained")
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

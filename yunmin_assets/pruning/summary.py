"""What a person wants to see of pruning: the distribution, the cuts, and examples from each band.

Text is shown as code spans (`plots.literal`), in which Markdown and HTML mean nothing.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from yunmin_assets.plots import bars, histogram, literal, markdown_table
from yunmin_assets.pruning.reading import column_values, picked_rows
from yunmin_assets.pruning.removal import PruningCounts
from yunmin_assets.pruning.selection import Cut, Keys, Mask
from yunmin_assets.pruning.shares import MEASURES, DomainSize

Figures = dict[str, int | float]
Rendered = dict[str, str]
"""Markdown by name."""

BANDS = ("low", "medium", "high")
"""Thirds of the documents in the order of their perplexities."""
EXAMPLES_PER_BAND = 3
EXAMPLE_CHARACTERS = 160
PLOTTED_DOMAINS = 20


def describe_scores(scores: Path, documents: Path) -> tuple[Figures, Rendered, list[str]]:
    """Figures of one domain's scores, Markdown by name, and ids of documents whose perplexity is not finite."""
    perplexities = column_values(scores, "perplexity")
    tokens, scored, nll = (column_values(scores, name).sum() for name in ("n_tokens", "n_scored", "nll"))
    n_bytes = column_values(scores, "n_bytes").sum()
    valid = perplexities[~np.isnan(perplexities)]
    per_token = nll / max(scored, 1)
    figures: Figures = {
        "documents": len(perplexities),
        "tokens": int(tokens),
        "scored_tokens": int(scored),
        "perplexity_of_all_tokens": float(np.exp(per_token)),
        "bits_per_byte": float(per_token * tokens / max(n_bytes, 1) / np.log(2)),
        **({"median_perplexity": float(np.median(valid))} if len(valid) else {}),
        "documents_without_tokens": len(perplexities) - len(valid),
    }
    rendered = {
        "distribution": histogram(
            valid, title="Perplexity of documents", xlabel="perplexity", logarithmic=True
        ),
        "examples": _examples(perplexities, scores, documents, None),
    }
    infinite = np.flatnonzero(np.isinf(perplexities))
    return figures, rendered, picked_rows(scores, ["id"], infinite)["id"].to_pylist()


def describe_selection(
    documents: Path, scores: Path, cut: Cut, counts: PruningCounts
) -> tuple[Figures, Rendered]:
    """Figures of one domain after pruning, and Markdown by name."""
    perplexities = column_values(scores, "perplexity")
    has_lines = cut.criterion not in ("random", "none")
    lines = cut_lines(perplexities[counts.kept]) if has_lines else {}
    figures: Figures = {
        "documents_in": counts.documents_in,
        "documents": counts.documents,
        "removed_documents": sum(counts.removed.values()),
        "text_bytes_in": counts.text_bytes_in,
        "text_bytes": counts.text_bytes,
        "kept_share_of_bytes": counts.text_bytes / max(counts.text_bytes_in, 1),
        "tokens": counts.tokens,
        **{f"removed: {reason}": number for reason, number in sorted(counts.removed.items())},
        **{f"perplexity {name}": value for name, value in lines.items()},
    }
    rendered = {
        "distribution": _distribution(f"Perplexity, criterion {cut.criterion}", perplexities, lines),
        "examples": _examples(perplexities, scores, documents, counts.kept),
    }
    return figures, rendered


def describe_thresholds(
    scores: Mapping[str, Path], cuts: Mapping[str, Cut], sizes: Mapping[str, DomainSize]
) -> tuple[Figures, Rendered]:
    """Figures over all domains, and Markdown by name: domain shares before and after, and where the cuts fall."""
    total = DomainSize(
        np.sum([size.before for size in sizes.values()], axis=0),
        np.sum([size.after for size in sizes.values()], axis=0),
    )
    figures: Figures = {}
    for measure, whole, part in zip(MEASURES, total.before, total.after, strict=True):
        figures |= {f"{measure}_before": int(whole), measure: int(part)}
    rendered = {"domain_shares": _domain_shares(sizes, total), "cuts": _cut_table(cuts)}
    largest = sorted(scores, key=lambda domain: (-sizes[domain].before[0], domain))[:PLOTTED_DOMAINS]
    plots = [_cut_plot(domain, scores[domain], cuts[domain]) for domain in sorted(largest)]
    if len(scores) > len(largest):
        plots.append(f"{len(scores) - len(largest)} smaller domains are not plotted.")
    return figures, rendered | {"distributions": "\n\n".join(plots)}


def cut_lines(kept_perplexities: Keys) -> dict[str, float]:
    """The lowest and highest perplexity that is kept."""
    values = kept_perplexities[~np.isnan(kept_perplexities)]
    return {"lowest kept": float(values.min()), "highest kept": float(values.max())} if len(values) else {}


def _distribution(title: str, perplexities: Keys, lines: Mapping[str, float]) -> str:
    return histogram(perplexities, title=title, xlabel="perplexity", marks=lines, logarithmic=True)


def _cut_plot(domain: str, scores: Path, cut: Cut) -> str:
    """A lot is no perplexity, so `random` has no lines."""
    ends = {"lowest kept": cut.lowest, "highest kept": cut.highest}
    lines = {name: place.key for name, place in ends.items() if place and cut.criterion != "random"}
    return _distribution(domain, column_values(scores, "perplexity"), lines)


def _cut_table(cuts: Mapping[str, Cut]) -> str:
    key = "lot" if any(cut.criterion == "random" for cut in cuts.values()) else "perplexity"
    rows = [
        (
            literal(domain),
            cut.scored,
            cut.kept,
            *(f"{place.key:,.4g}" if place else "" for place in (cut.lowest, cut.highest)),
        )
        for domain, cut in sorted(cuts.items())
    ]
    return markdown_table(["domain", "scored", "kept", f"lowest {key}", f"highest {key}"], rows)


def _domain_shares(sizes: Mapping[str, DomainSize], total: DomainSize) -> str:
    """A table, and a plot of the shares of tokens."""
    header = ["domain", *(f"{measure} {when}" for measure in MEASURES for when in ("before", "after"))]
    named = [(literal(name), size) for name, size in sorted(sizes.items())]
    rows = [[name, *_share_cells(size, total)] for name, size in [*named, ("**all**", total)]]
    tokens = MEASURES.index("tokens")
    heights = {
        f"{name} {when}": _share(part[tokens], whole[tokens])
        for name, size in sorted(sizes.items())
        for when, part, whole in (
            ("before", size.before, total.before),
            ("after", size.after, total.after),
        )
    }
    plot = bars(heights, title="Shares of tokens before and after pruning", ylabel="tokens / all tokens")
    return f"{markdown_table(header, rows)}\n\n{plot}"


def _share_cells(size: DomainSize, total: DomainSize) -> list[str]:
    return [
        f"{part[measure]:,} ({_share(part[measure], whole[measure]):.1%})"
        for measure in range(len(MEASURES))
        for part, whole in ((size.before, total.before), (size.after, total.after))
    ]


def _share(part: int | np.int64, whole: int | np.int64) -> float:
    return float(part / max(whole, 1))


def _examples(perplexities: Keys, scores: Path, documents: Path, kept: Mask | None) -> str:
    """A table of documents from each band, spread over it; with a selection, kept and removed ones of each."""
    chosen = _example_rows(perplexities, kept)
    texts = dict(zip(sorted(chosen), picked_rows(documents, ["text"], sorted(chosen))["text"], strict=True))
    facts = picked_rows(scores, ["id", "perplexity", "bits_per_byte"], sorted(chosen)).to_pylist()
    fact_of = dict(zip(sorted(chosen), facts, strict=True))
    rows = [
        (
            band,
            fact_of[row]["perplexity"],
            fact_of[row]["bits_per_byte"],
            *(() if kept is None else ("kept" if kept[row] else "removed",)),
            literal(fact_of[row]["id"]),
            literal(_beginning(texts[row])),
        )
        for row, band in chosen.items()
    ]
    header = ["band", "perplexity", "bits/byte", *(() if kept is None else ("",)), "id", "text"]
    return markdown_table(header, rows)


def _example_rows(perplexities: Keys, kept: Mask | None) -> dict[int, str]:
    """Row → band, from the lowest perplexity to the highest."""
    ordered = np.argsort(perplexities, kind="stable")[: np.count_nonzero(~np.isnan(perplexities))]
    chosen: dict[int, str] = {}
    for band, rows in zip(BANDS, np.array_split(ordered, len(BANDS)), strict=True):
        groups = [rows] if kept is None else [rows[kept[rows]], rows[~kept[rows]]]
        picked = [row for group in groups for row in _spread(group)]
        chosen |= {row: band for row in sorted(picked, key=lambda row: (perplexities[row], row))}
    return chosen


def _spread(rows: NDArray[np.int64]) -> list[int]:
    if not len(rows):
        return []
    return [int(row) for row in rows[np.unique(np.linspace(0, len(rows) - 1, EXAMPLES_PER_BAND).astype(int))]]


def _beginning(text: pa.Scalar) -> str:
    whole = text.as_py()
    return whole if len(whole) <= EXAMPLE_CHARACTERS else f"{whole[:EXAMPLE_CHARACTERS]} …"

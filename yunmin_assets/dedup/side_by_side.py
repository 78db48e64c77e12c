"""Removed documents beside the ones they yield to, with the differing words marked, for a person to judge.

Text is shown as code spans (`plots.literal`), in which Markdown, HTML and links mean nothing. Marks are bold
between brackets: the Dagster UI renders neither HTML nor colours, and a bold letter alone is easily overlooked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.dedup.differences import COMPARED_CHARACTERS, Comparison, Kind, Piece, compare
from yunmin_assets.dedup.removal import NEAR_DUPLICATE
from yunmin_assets.plots import literal

LEGEND = "**⟦Marked⟧** text is not in the other one, … is text left out, and white space shows as one space."


def choose_pairs(decisions: pa.Table, count: int = 10) -> pa.Table:
    """Near-duplicates worth a look: spread over the range of Jaccard, half of them from its lower half.

    Args:
        decisions: `DOMAIN_DECISION_SCHEMA` of one domain.
        count: how many at most; where one half of the range has too few, the other fills up.

    Returns:
        Rows of `decisions`, from the least to the most similar, equals in the order of their ids.
    """
    near = decisions.filter(pc.equal(decisions["reason"], NEAR_DUPLICATE))
    near = near.sort_by([("jaccard", "ascending"), ("id", "ascending")])
    if not near.num_rows:
        return near
    jaccard = near["jaccard"].to_numpy()
    doubtful = int(np.searchsorted(jaccard, (jaccard[0] + jaccard[-1]) / 2, side="right"))
    clear = len(jaccard) - doubtful
    lower = min(doubtful, max(count - count // 2, count - clear))
    upper = min(clear, count - lower)
    middle = jaccard[doubtful - 1]
    picks = [
        _nearest(jaccard[:doubtful], np.linspace(jaccard[0], middle, lower)),
        doubtful + _nearest(jaccard[doubtful:], np.linspace(middle, jaccard[-1], upper + 1)[1:]),
    ]
    return near.take(np.concatenate(picks))


def side_by_side(pairs: pa.Table) -> str:
    """Markdown with each removed document beside its survivor: a row per window, differing text marked.

    Args:
        pairs: id, survivor_domain, survivor_id: string, jaccard: float64, text, survivor_text: string.
    """
    if not pairs.num_rows:
        return "No near-duplicates were removed."
    rows = [row for pair in pairs.to_pylist() for row in _rendered_pair(pair)]
    return "\n".join([LEGEND, "", "| Jaccard | removed | kept |", "| --- | --- | --- |", *rows])


def _nearest(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each target the place of a value close to it, all places different; both are sorted."""
    order = np.arange(len(targets))
    apart = np.maximum.accumulate(np.searchsorted(values, targets) - order) + order
    return np.minimum(apart, len(values) - len(targets) + order)


def _rendered_pair(pair: Mapping[str, Any]) -> list[str]:
    """Rows of the table: who the two are, their windows, and a line's space."""
    removed, kept = pair["text"], pair["survivor_text"]
    comparison = compare(removed, kept)
    survivor = f"{pair['survivor_domain']}/{pair['survivor_id']}"
    return [
        f"| {pair['jaccard']:.4f} | *{literal(pair['id'].strip())}, {len(removed):,} characters* "
        f"| *{literal(survivor)}, {len(kept):,} characters{_left_out(comparison)}* |",
        *(f"| | {_rendered(window.first)} | {_rendered(window.second)} |" for window in comparison.windows),
        "| &nbsp; | | |",
    ]


def _left_out(comparison: Comparison) -> str:
    """What the windows do not show."""
    shown, places = len(comparison.windows), comparison.places
    differences = "; no word differs" if not places else f"; {shown} of {places:,} differences"
    rest = "" if comparison.is_complete else f", up to {COMPARED_CHARACTERS:,} characters from the first"
    return "" if shown == places > 0 and not rest else differences + rest


def _rendered(pieces: Sequence[Piece]) -> str:
    shown = {
        Kind.SAME: literal,
        Kind.DIFFERS: lambda text: f"**⟦{literal(text.strip())}⟧**",
        Kind.LEFT_OUT: lambda _: " … ",
    }
    return "".join(shown[piece.kind](piece.text) for piece in pieces).strip()

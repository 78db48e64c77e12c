"""Which documents are kept, given their perplexities (arXiv 2405.20541, section 2 and figure 1).

`low`, `medium` and `high` keep the first, middle and last part of the documents ordered by perplexity;
`random` is the control that keeps as many without looking at them; `none` keeps all. Ties are broken by id,
so the same scores give the same selection in any row order.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.pruning.config import PruningConfig


@dataclass(frozen=True)
class Selection:
    """The outcome: a mask over the rows of the scores, and where the cuts fell."""

    kept: np.ndarray
    """bool, one per row of the scores."""
    lowest_kept: float | None
    """Smallest perplexity among the kept documents; None when none of them has one."""
    highest_kept: float | None
    removed: dict[str, int]
    """Documents removed, by reason."""


def select_documents(scores: pa.Table, config: PruningConfig) -> Selection:
    """Decide which documents of one domain are kept.

    Args:
        scores: Columns `id` and `perplexity`; a null perplexity marks a document without tokens, which only
            the criterion `none` keeps.
        config: Criterion, rate and, for `random`, seed.

    Returns:
        Rate × scored documents (rounded half up, at least one) are kept.

    Raises:
        ValueError: A perplexity is not finite; names the document.
    """
    ids = scores.column("id").to_pylist()
    perplexity = scores.column("perplexity").to_numpy()  # null becomes NaN
    scored = pc.is_valid(scores.column("perplexity")).to_numpy()
    for row in np.flatnonzero(scored & ~np.isfinite(perplexity))[:1]:
        raise ValueError(f"document {ids[row]!r} has perplexity {perplexity[row]}: score it again")
    if config.criterion == "none":
        kept = np.ones(len(ids), dtype=bool)
    else:
        kept = np.zeros(len(ids), dtype=bool)
        kept[_chosen_rows(ids, perplexity, np.flatnonzero(scored), config)] = True
    kept_perplexity = perplexity[kept & scored]
    removed = {
        f"outside the {config.criterion} part": int(np.count_nonzero(scored & ~kept)),
        "no tokens": int(np.count_nonzero(~scored & ~kept)),
    }
    return Selection(
        kept,
        float(kept_perplexity.min()) if len(kept_perplexity) else None,
        float(kept_perplexity.max()) if len(kept_perplexity) else None,
        {reason: count for reason, count in removed.items() if count},
    )


def _chosen_rows(
    ids: list[str], perplexity: np.ndarray, rows: np.ndarray, config: PruningConfig
) -> list[int]:
    if config.criterion == "random":
        ordered = sorted(rows.tolist(), key=lambda row: (_lot(ids[row], config.seed), ids[row]))
    else:
        ordered = sorted(rows.tolist(), key=lambda row: (perplexity[row], ids[row]))
    count = min(len(ordered), max(1, math.floor(config.selection_rate * len(ordered) + 0.5)))
    first_of = {"low": 0, "random": 0, "medium": (len(ordered) - count) // 2, "high": len(ordered) - count}
    first = first_of[config.criterion]
    return ordered[first : first + count]


def _lot(document_id: str, seed: int) -> bytes:
    """A draw for the random control that depends on nothing but the id and the seed."""
    return hashlib.blake2b(f"{seed}/{document_id}".encode(), person=b"random-control").digest()

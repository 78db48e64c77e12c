"""Decisions against the truth: what was missed and what went without a reason."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class DedupScore:
    """How decisions compare with all true pairs.

    Attributes:
        pairs: true pairs with Jaccard ≥ threshold.
        residual_pairs: those of which both documents were kept.
        removed: documents that were removed.
        false_removals: those without any partner of Jaccard ≥ threshold in the truth.
    """

    pairs: int
    residual_pairs: int
    removed: int
    false_removals: int

    @property
    def pair_recall(self) -> float:
        """Share of the true pairs that lost at least one document; 1.0 if there are none."""
        return 1 - self.residual_pairs / self.pairs if self.pairs else 1.0


def score_against_truth(
    decisions: pa.Table, truth_pairs: pa.Table, threshold: float, *, below: float = np.inf
) -> DedupScore:
    """Score decisions.

    Args:
        decisions: what `deduplicate` returns.
        truth_pairs: columns a, b (ids) and jaccard; every pair at or above `threshold`.
        threshold: the Jaccard from which on two documents are duplicates.
        below: count `pairs` and `residual_pairs` only under this Jaccard, to look at the hard pairs
            near the threshold. Removals are always judged by all pairs.

    Raises:
        ValueError: the truth names a document without a decision.
    """
    pairs = truth_pairs.filter(pc.greater_equal(truth_pairs["jaccard"], threshold))
    first, second = _rows(decisions, pairs["a"]), _rows(decisions, pairs["b"])
    kept = decisions["kept"].to_numpy()
    in_range = pairs["jaccard"].to_numpy() < below
    has_partner = np.zeros(len(kept), np.bool_)
    has_partner[first] = has_partner[second] = True
    return DedupScore(
        pairs=int(in_range.sum()),
        residual_pairs=int((kept[first] & kept[second] & in_range).sum()),
        removed=int((~kept).sum()),
        false_removals=int((~kept & ~has_partner).sum()),
    )


def _rows(decisions: pa.Table, ids: pa.ChunkedArray) -> np.ndarray:
    known = decisions["id"].cast(pa.large_string()).combine_chunks()
    rows = pc.index_in(ids.cast(pa.large_string()), value_set=known)
    if rows.null_count:
        unknown = ids.filter(rows.is_null())[0].as_py()
        raise ValueError(f"the truth names {unknown!r}, which has no decision: score the same documents")
    return rows.to_numpy()

"""Decisions against the truth: what was missed and what went without a reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from yunmin_assets.documents import EXACT_DUPLICATE

HARD_PAIRS_BELOW = 0.85
"""Pairs between the threshold and this Jaccard are the ones that are easily missed."""


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


def score_domains(
    decisions: Sequence[Path], removed_before: Sequence[Path], truth: UPath, threshold: float
) -> dict[str, int | float]:
    """Compare the decisions about a corpus with planted pairs that are known.

    Args:
        decisions: files of `DOMAIN_DECISION_SCHEMA`, one per domain.
        removed_before: `removed.parquet` of `clean_corpus`, whose exact duplicates count as found.
        truth: Parquet file with columns a, b (ids, unique over all domains) and jaccard.
        threshold: pairs from this Jaccard on are duplicates.
    """
    gone = pa.concat_tables([pq.read_table(path, columns=["id", "reason"]) for path in removed_before])
    gone = gone.filter(pc.equal(gone["reason"], EXACT_DUPLICATE)).select(["id"])
    gone = gone.append_column("kept", pa.array(np.zeros(gone.num_rows, bool)))
    decided = [pq.read_table(path, columns=["id", "kept"]) for path in decisions]
    everything = pa.concat_tables([*decided, gone.cast(decided[0].schema)])
    with truth.open("rb") as file:
        pairs = pq.read_table(file, columns=["a", "b", "jaccard"])
    known = everything["id"].combine_chunks()
    pairs = pairs.filter(pc.and_(*(pc.is_in(pairs[side], value_set=known) for side in ("a", "b"))))
    score = score_against_truth(everything, pairs, threshold)
    hard = score_against_truth(everything, pairs, threshold, below=HARD_PAIRS_BELOW)
    return {
        "true_pairs": score.pairs,
        "residual_pairs": score.residual_pairs,
        "removed_with_exact": score.removed,
        "pair_recall": score.pair_recall,
        "pair_recall_hard": hard.pair_recall,
        "false_removals": score.false_removals,
    }


def _rows(decisions: pa.Table, ids: pa.ChunkedArray) -> np.ndarray:
    known = decisions["id"].cast(pa.large_string()).combine_chunks()
    rows = pc.index_in(ids.cast(pa.large_string()), value_set=known)
    if rows.null_count:
        unknown = ids.filter(rows.is_null())[0].as_py()
        raise ValueError(f"the truth names {unknown!r}, which has no decision: score the same documents")
    return rows.to_numpy()

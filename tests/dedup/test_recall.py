"""The score counts what its docstring says."""

import pyarrow as pa
import pytest

from yunmin_assets.dedup import DedupScore, score_against_truth

DECISIONS = pa.table({"id": [*"abcdef"], "kept": [True, False, True, True, False, True]})
TRUTH = pa.table(
    {
        "a": pa.array([*"acec"], pa.large_string()),
        "b": pa.array([*"bdff"], pa.large_string()),
        "jaccard": [0.95, 0.82, 0.7, 0.8],
    }
)


def test_pairs_residuals_and_false_removals_are_counted() -> None:
    score = score_against_truth(DECISIONS, TRUTH, 0.8)
    assert score == DedupScore(pairs=3, residual_pairs=2, removed=2, false_removals=1)
    assert score.pair_recall == pytest.approx(1 / 3)


def test_a_lower_threshold_makes_the_same_removal_true() -> None:
    assert score_against_truth(DECISIONS, TRUTH, 0.7).false_removals == 0


def test_hard_pairs_can_be_scored_alone_without_changing_the_removals() -> None:
    score = score_against_truth(DECISIONS, TRUTH, 0.8, below=0.85)
    assert score == DedupScore(pairs=2, residual_pairs=2, removed=2, false_removals=1)
    assert score.pair_recall == 0


def test_nothing_to_find_is_found() -> None:
    assert score_against_truth(DECISIONS, TRUTH.slice(0, 0), 0.8).pair_recall == 1.0


def test_truth_about_unknown_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="the truth names 'a', which has no decision"):
        score_against_truth(DECISIONS.slice(1), TRUTH, 0.8)

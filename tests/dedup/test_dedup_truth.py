"""Targets on 18,000 real Korean documents with planted duplicates and every true pair."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.dedup.oracle import jaccard, shingle_set
from yunmin_assets.dedup import DedupConfig, deduplicate, score_against_truth

THRESHOLD = 0.8
HARD_PAIRS_BELOW = 0.85


@pytest.fixture(scope="module")
def documents(shared_data: Path) -> pa.Table:
    return pq.read_table(shared_data / "dedup_truth" / "corpus.parquet")


@pytest.fixture(scope="module")
def truth(shared_data: Path) -> pa.Table:
    return pq.read_table(shared_data / "dedup_truth" / "truth.parquet")


@pytest.fixture(scope="module")
def decisions(documents: pa.Table) -> pa.Table:
    return deduplicate(documents, DedupConfig(threshold=THRESHOLD))


@pytest.mark.parametrize("survivors", ["anchored", "linked"])
def test_true_pairs_are_found_and_nothing_else_is_removed(
    documents: pa.Table, truth: pa.Table, survivors: str
) -> None:
    found = deduplicate(documents, DedupConfig(threshold=THRESHOLD, survivors=survivors))
    score = score_against_truth(found, truth, THRESHOLD)
    assert score.pairs > 40_000
    assert score.pair_recall >= 0.999
    assert score_against_truth(found, truth, THRESHOLD, below=HARD_PAIRS_BELOW).pair_recall >= 0.995
    assert score.false_removals == 0


def test_every_removed_document_resembles_a_document_that_stays(
    documents: pa.Table, decisions: pa.Table
) -> None:
    removed = decisions.filter(pc.invert(decisions["kept"]))
    kept = set(decisions.filter(decisions["kept"])["id"].to_pylist())
    assert set(removed["survivor_id"].to_pylist()) <= kept
    assert pc.min(removed["jaccard"]).as_py() >= THRESHOLD
    texts = dict(zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True))
    for row in removed.take(
        np.random.default_rng(0).choice(removed.num_rows, 500, replace=False)
    ).to_pylist():
        pair = (shingle_set(texts[row[name]], 13) for name in ("id", "survivor_id"))
        assert jaccard(*pair) == row["jaccard"]


def test_at_most_one_true_pair_in_ten_thousand_is_left(truth: pa.Table, decisions: pa.Table) -> None:
    score = score_against_truth(decisions, truth, THRESHOLD)
    assert score.residual_pairs <= score.pairs / 10_000


def test_shuffled_documents_get_the_same_decisions(documents: pa.Table, decisions: pa.Table) -> None:
    order = np.random.default_rng(0).permutation(documents.num_rows)
    shuffled = deduplicate(documents.take(order), DedupConfig(threshold=THRESHOLD))
    assert shuffled.equals(decisions.take(order))


def test_slimpajamas_preset_misses_more_and_removes_without_a_reason(
    documents: pa.Table, truth: pa.Table
) -> None:
    """What verification and more bands are for."""
    score = score_against_truth(deduplicate(documents, DedupConfig.slimpajama()), truth, THRESHOLD)
    assert score.pair_recall < 0.999
    assert score.false_removals > 0

"""What stages recorded becomes rows of the report, by arithmetic a person can follow."""

import pytest

from yunmin_assets.evaluation.collect import candidate_rows, cost_rows, expectation_rows, funnel_row

CLEAN = {"lines": 100, "text_bytes_in": 1000, "documents": 90, "text_bytes": 900}
DEDUPED = {"documents": 80, "text_bytes": 800}
PRUNED = {"removed_documents": 35, "text_bytes_in": 700, "text_bytes": 350}
SHARDS = {"train_tokens": 123}


def test_held_out_documents_still_count_after_pruning() -> None:
    row = funnel_row("law", CLEAN, DEDUPED, PRUNED, SHARDS)
    assert (row.raw_documents, row.clean_documents, row.deduped_documents, row.pruned_documents) == (
        100,
        90,
        80,
        45,
    )
    assert (row.raw_bytes, row.clean_bytes, row.deduped_bytes, row.pruned_bytes) == (1000, 900, 800, 450)


def test_bytes_removed_are_measured_against_the_raw_text() -> None:
    rows = expectation_rows([funnel_row("law", CLEAN, DEDUPED, PRUNED, SHARDS)], [])
    measured = rows[0].measurement
    assert measured is not None
    assert measured.measured == "55.0% of the bytes removed"
    assert measured.met is True


def test_costs_add_up_over_domains_and_memory_is_the_largest() -> None:
    cost = {
        "wall_seconds": 2.0,
        "cpu_seconds": 3.0,
        "gpu_seconds": 0.0,
        "bytes_in": 5,
        "bytes_out": 7,
        "tokens": 11,
    }
    rows = cost_rows(
        [
            ("clean_corpus", {**cost, "peak_memory_bytes": 100}),
            ("clean_corpus", {**cost, "peak_memory_bytes": 300}),
            ("tokenizer", {**cost, "peak_memory_bytes": 50}),
        ]
    )
    assert [(row.stage, row.snapshots, row.tokens, row.peak_memory_bytes) for row in rows] == [
        ("clean_corpus", 2, 22, 300),
        ("tokenizer", 1, 11, 50),
    ]
    assert rows[0].cpu_seconds == pytest.approx(6.0)


def test_the_chosen_candidate_is_marked() -> None:
    search = {
        "weights": {"law": 0.5},
        "chosen": "searched",
        "candidates": [
            {"candidate": "base", "mean_nll": 2.0, "weight/law": 0.0},
            {"candidate": "searched", "mean_nll": 1.5, "weight/law": 0.5},
        ],
    }
    assert [(row.candidate, row.chosen, row.weights) for row in candidate_rows(search)] == [
        ("base", False, {"law": 0.0}),
        ("searched", True, {"law": 0.5}),
    ]

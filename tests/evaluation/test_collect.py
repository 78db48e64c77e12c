"""What stages recorded becomes rows of the report, by arithmetic a person can follow."""

from pathlib import Path

import pytest

from resources.lake import Lake
from resources.lineage import loading_benchmark_of
from resources.snapshot import Snapshot
from yunmin_assets.evaluation.collect import (
    candidate_rows,
    cost_rows,
    expectation_rows,
    funnel_row,
    training_cost,
)
from yunmin_assets.evaluation.model import ExpectationRow

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
    assert measured.measured == "55.0 % of the bytes removed"
    assert measured.met is True


LOADING = {
    "sample_documents": 2000,
    "sample_rows": 4000,
    "sample_tokens": 1_000_000,
    "text_speedup_over_json": 4.96,
    "text_speedup_over_orjson": 2.21,
    "rows_speedup_over_orjson": 42.0,
    "rows_memory_bytes": 30_000_000,
    "shuffled_jsonl_memory_bytes": 200_000_000,
    "unshuffled_jsonl_memory_bytes": 5_000_000,
    "shuffle_buffer_rows": 10_000,
}


def loading_rows(figures: dict[str, float] | None) -> list[ExpectationRow]:
    rows = expectation_rows([funnel_row("law", CLEAN, DEDUPED, PRUNED, SHARDS)], [], figures)
    return [row for row in rows if row.claim in ("Faster loading", "Less memory")]


def test_loading_is_told_with_its_baselines_named() -> None:
    speed, memory = (row.measurement for row in loading_rows(LOADING))
    assert speed is not None and memory is not None
    assert speed.measured == "training rows 42.0×, text 5.0× (json) and 2.2× (orjson)"
    assert "JSONL, read by orjson" in speed.baseline
    assert memory.measured == "85.0 % less: 30.0 MB instead of 200 MB"
    assert "shuffle buffer of 4,000 rows" in memory.baseline and "JSONL takes 5.00 MB" in memory.baseline
    assert speed.met is True and memory.met is True


def test_what_falls_short_of_the_expectation_is_not_met() -> None:
    rows = loading_rows(LOADING | {"rows_speedup_over_orjson": 4.9, "rows_memory_bytes": 41_000_000})
    assert [row.status for row in rows] == ["not met", "not met"]


@pytest.mark.parametrize("figures", [None, {}, {"rows_speedup_over_orjson": 42.0}])
def test_loading_that_was_not_measured_is_shown_so(figures: dict[str, float] | None) -> None:
    assert [row.status for row in loading_rows(figures)] == ["not measured yet", "not measured yet"]


def publish(lake: Lake, asset: str, domain: str | None, content: str, **inputs: str) -> Snapshot:
    with lake.stage(asset, domain) as staging:
        (staging.folder / "content.txt").write_text(content)
        return lake.commit(staging, asset=asset, domain=domain, fingerprint=content, inputs=inputs)


def test_a_loading_benchmark_of_older_shards_is_not_shown(tmp_path: Path) -> None:
    lake = Lake(uri=str(tmp_path))
    law, tech = (publish(lake, "parquet_shards", domain, domain) for domain in ("law", "tech"))
    assert loading_benchmark_of(lake, {"law": law}) is None
    measured_on = {"parquet_shards[law]": law.content_hash, "parquet_shards[tech]": tech.content_hash}
    benchmark = publish(lake, "loading_benchmark", None, "figures", **measured_on)
    for shards in ({"law": law, "tech": tech}, {"law": law}):
        found = loading_benchmark_of(lake, shards)
        assert found is not None and found.content_hash == benchmark.content_hash
    newer = publish(lake, "parquet_shards", "law", "another delivery")
    assert loading_benchmark_of(lake, {"law": newer, "tech": tech}) is None
    assert loading_benchmark_of(lake, {"law": law, "news": newer}) is None


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


def costs(**cpu_and_tokens: tuple[float, int]) -> list[tuple[str, dict[str, float]]]:
    other = dict.fromkeys(("wall_seconds", "gpu_seconds", "peak_memory_bytes", "bytes_in", "bytes_out"), 0.0)
    return [
        (stage, other | {"cpu_seconds": cpu, "tokens": tokens})
        for stage, (cpu, tokens) in cpu_and_tokens.items()
    ]


ADAPTERS = [*costs(lora_adapter=(30.0, 100)), *costs(lora_adapter=(50.0, 200))]


def test_another_mixture_costs_a_search_and_a_merge_against_training_anew() -> None:
    """Anew 100 s; again 15 + 5 = 20 s, so 80 % cheaper; the first time 30 + 50 + 20 = 100 s."""
    found = training_cost(
        [
            *ADAPTERS,
            *costs(domain_weights=(15.0, 4_000), merged_model=(5.0, 0), joint_adapter=(100.0, 300)),
        ]
    )
    assert found is not None
    assert (
        found.measured
        == "another mixture 80.0 % cheaper: 20.0 s of CPU and 4,000 tokens; the first one: 1 min 40 s"
    )
    assert found.baseline == "joint training on the same tokens: 1 min 40 s of CPU, 300 tokens"
    assert found.met is True


@pytest.mark.parametrize(
    ("search", "said", "is_met"),
    [(25.0, "70.0 % cheaper", True), (25.5, "69.5 % cheaper", False), (145.0, "50.0 % dearer", False)],
)
def test_a_search_that_saves_too_little_does_not_meet_the_expectation(
    search: float, said: str, is_met: bool
) -> None:
    stages = costs(domain_weights=(search, 1), merged_model=(5.0, 0), joint_adapter=(100.0, 1))
    found = training_cost([*ADAPTERS, *stages])
    assert found is not None
    assert found.measured.startswith(f"another mixture {said}:")
    assert found.met is is_met


def test_training_on_a_gpu_is_compared_in_gpu_seconds() -> None:
    stages = costs(
        lora_adapter=(1.0, 300), domain_weights=(5.0, 1), merged_model=(5.0, 0), joint_adapter=(100.0, 1)
    )
    gpu_seconds = {"lora_adapter": 90.0, "domain_weights": 83.0, "joint_adapter": 100.0}
    on_gpu = [(stage, {**cost, "gpu_seconds": gpu_seconds.get(stage, 0.0)}) for stage, cost in stages]
    found = training_cost(on_gpu)
    assert found is not None
    assert found.measured.startswith("another mixture 17.0 % cheaper: 1 min 23 s of GPU")
    assert found.met is False


def test_a_search_on_a_cpu_is_not_held_against_training_on_a_gpu() -> None:
    stages = costs(domain_weights=(5.0, 1), merged_model=(5.0, 0), joint_adapter=(100.0, 1))
    mixed = [(stage, {**cost, "gpu_seconds": 100.0 * (stage == "joint_adapter")}) for stage, cost in stages]
    found = training_cost([*ADAPTERS, *mixed])
    assert found is not None
    assert found.how.endswith("one ran on a GPU, the other did not")
    assert found.met is None


def test_without_the_joint_control_the_cost_of_training_is_not_measured() -> None:
    stages = costs(domain_weights=(1.0, 1), merged_model=(5.0, 0))
    assert training_cost([*ADAPTERS, *stages]) is None
    rows = expectation_rows([funnel_row("law", CLEAN, DEDUPED, PRUNED, SHARDS)], [], None, None)
    assert [row.status for row in rows if row.claim == "Cheaper training"] == ["not measured yet"]


def test_the_chosen_candidate_is_marked() -> None:
    search = {
        "weights": {"law": 0.5},
        "chosen": "searched",
        "candidates": [
            {"candidate": "base", "mean_nll": 2.0, "weight/law": 0.0, "is_control": False},
            {"candidate": "searched", "mean_nll": 1.5, "weight/law": 0.5, "is_control": False},
        ],
    }
    assert [(row.candidate, row.chosen, row.weights) for row in candidate_rows(search)] == [
        ("base", False, {"law": 0.0}),
        ("searched", True, {"law": 0.5}),
    ]

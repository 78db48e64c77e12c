"""What other stages recorded about themselves, as rows of the report."""

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from yunmin_assets.evaluation.blind_sheet import HumanVerdict
from yunmin_assets.evaluation.formatting import percent, seconds, size
from yunmin_assets.evaluation.model import (
    BASE,
    MERGED,
    CandidateRow,
    CostRow,
    DuplicateRecall,
    ExpectationRow,
    FunnelRow,
    HumanRow,
    Measurement,
    PerplexityCell,
    owner_expectations,
)

PACKAGES = (
    "dagster",
    "kiwipiepy",
    "lm-eval",
    "numba",
    "numpy",
    "peft",
    "pyarrow",
    "sacrebleu",
    "tokenizers",
    "torch",
    "transformers",
)
EXPECTED_BYTES_REMOVED = 0.5
EXPECTED_TRAINING_SAVED = 0.7
EXPECTED_SPEEDUP = 5.0
EXPECTED_MEMORY_SAVED = 0.8

Metadata = Mapping[str, Any]


def funnel_row(
    domain: str, clean: Metadata, deduped: Metadata, pruned: Metadata, shards: Metadata
) -> FunnelRow:
    """The way of one domain's text, from the metadata of four snapshots.

    Held-out documents are never pruned, so they still count after pruning; the tokens are those trained on.
    """
    return FunnelRow(
        domain=domain,
        raw_documents=clean["lines"],
        raw_bytes=clean["text_bytes_in"],
        clean_documents=clean["documents"],
        clean_bytes=clean["text_bytes"],
        deduped_documents=deduped["documents"],
        deduped_bytes=deduped["text_bytes"],
        pruned_documents=deduped["documents"] - pruned["removed_documents"],
        pruned_bytes=deduped["text_bytes"] - (pruned["text_bytes_in"] - pruned["text_bytes"]),
        tokens=shards["train_tokens"],
    )


def duplicate_recall(clusters: Metadata, threshold: float) -> DuplicateRecall | None:
    """How many known pairs were found, or None when the truth is not known."""
    if "true_pairs" not in clusters:
        return None
    return DuplicateRecall(
        threshold=threshold,
        pairs=clusters["true_pairs"],
        residual_pairs=clusters["residual_pairs"],
        removed=clusters["removed_with_exact"],
        false_removals=clusters["false_removals"],
    )


def candidate_rows(search: Metadata) -> list[CandidateRow]:
    """The candidates of a weight search, from `weights.json`."""
    return [
        CandidateRow(
            candidate=row["candidate"],
            mean_nll=row["mean_nll"],
            weights={
                domain: row[f"weight/{domain}"]
                for domain in search["weights"]
                if row[f"weight/{domain}"] is not None
            },
            control=row["is_control"],
            chosen=row["candidate"] == search["chosen"],
        )
        for row in search["candidates"]
    ]


def merged_weights(search: Metadata) -> dict[str, float]:
    """The weight of each domain's difference; the mean where every tensor has its own."""
    return {
        domain: sum(weight.values()) / len(weight) if isinstance(weight, Mapping) else weight
        for domain, weight in search["weights"].items()
    }


def human_rows(found: HumanVerdict) -> list[HumanRow]:
    """A person's blind ratings, criterion by criterion."""
    return [
        HumanRow(
            criterion=each.criterion,
            wins=each.wins,
            ties=each.ties,
            losses=each.losses,
            unrated=each.unrated,
            p_value=each.p_value,
            verdict=each.verdict,
        )
        for each in found.criteria
    ]


def cost_rows(costs: Iterable[tuple[str, Mapping[str, float]]]) -> list[CostRow]:
    """One row per stage, summed over its domains, in the order given; peak memory is the largest."""
    rows: dict[str, dict[str, Any]] = {}
    for stage, cost in costs:
        row = rows.setdefault(stage, {"stage": stage, "snapshots": 0, "peak_memory_bytes": 0})
        row["snapshots"] += 1
        row["peak_memory_bytes"] = max(row["peak_memory_bytes"], int(cost["peak_memory_bytes"]))
        for name in ("wall_seconds", "cpu_seconds", "gpu_seconds", "bytes_in", "bytes_out", "tokens"):
            row[name] = row.get(name, 0) + cost[name]
    return [CostRow(**row) for row in rows.values()]


def expectation_rows(
    funnel: Sequence[FunnelRow],
    cells: Sequence[PerplexityCell],
    loading: Metadata | None = None,
    training: Measurement | None = None,
) -> tuple[ExpectationRow, ...]:
    """The owner's table, as far as this graph measured it.

    Args:
        loading: metadata of `loading_benchmark`, where it was measured on the shards behind the model.
        training: see `training_cost`.
    """
    raw, pruned = sum(row.raw_bytes for row in funnel), sum(row.pruned_bytes for row in funnel)
    removed = 1 - pruned / raw if raw else 0.0
    merged = [cell for cell in cells if cell.model == MERGED]
    better = sum(cell.verdict == "better" for cell in merged)
    worse = sum(cell.verdict == "worse" for cell in merged)
    measurements = {
        "bytes_removed": Measurement(
            measured=f"{percent(removed)} of the bytes removed",
            baseline="UTF-8 bytes of the raw texts",
            how="cleaning, deduplication and pruning by perplexity at the configured selection rate",
            met=removed >= EXPECTED_BYTES_REMOVED,
        ),
        "training_cost": training,
        "loading_speed": loading_speed(loading or {}),
        "memory": loading_memory(loading or {}),
        "quality": Measurement(
            measured=f"perplexity better on {better}, worse on {worse} of {len(merged)} domains",
            baseline=f"the {BASE} model on the same test documents",
            how="paired bootstrap by document, Holm-corrected over the domains",
            met=better == len(merged),
        ),
    }
    return owner_expectations({name: found for name, found in measurements.items() if found is not None})


def training_cost(costs: Iterable[tuple[str, Mapping[str, float]]]) -> Measurement | None:
    """What another mixture of the domains costs: merging anew against training anew. None without the joint control.

    Weights are found after training, so that a new mixture costs a search and a merge; a jointly trained model is
    trained again. The first model is not cheaper: every domain has been trained once either way. Where the joint
    adapter was trained on a GPU, GPU-seconds are compared, else CPU-seconds.
    """
    rows = {row.stage: row for row in cost_rows(costs)}
    if "joint_adapter" not in rows:
        return None
    search, joint = rows["domain_weights"], rows["joint_adapter"]
    on_gpu = joint.gpu_seconds > 0
    is_comparable = (search.gpu_seconds > 0) == on_gpu

    def spent(*stages: str) -> float:
        return sum(rows[stage].gpu_seconds if on_gpu else rows[stage].cpu_seconds for stage in stages)

    again = spent("domain_weights", "merged_model")
    first = again + spent("lora_adapter")
    saved = 1 - again / spent("joint_adapter")
    unit = "GPU" if on_gpu else "CPU"
    return Measurement(
        measured=f"another mixture {percent(abs(saved))} {'cheaper' if saved >= 0 else 'dearer'}: {seconds(again)} of "
        f"{unit} and {search.tokens:,} tokens; the first one: {seconds(first)}",
        baseline=f"joint training on the same tokens: {seconds(spent('joint_adapter'))} of {unit}, "
        f"{joint.tokens:,} tokens",
        how=f"{unit}-seconds of weight search (with its controls) and merge, against one joint adapter"
        + ("" if is_comparable else "; one ran on a GPU, the other did not"),
        met=saved >= EXPECTED_TRAINING_SAVED if is_comparable else None,
    )


def loading_speed(loading: Metadata) -> Measurement | None:
    """How much faster training rows and texts are read than from JSONL, or None when a reader is missing."""
    names = ("rows_speedup_over_orjson", "text_speedup_over_json", "text_speedup_over_orjson")
    if not all(name in loading for name in names):
        return None
    rows, text_json, text_orjson = (loading[name] for name in names)
    return Measurement(
        measured=f"training rows {rows:.1f}×, text {text_json:.1f}× (json) and {text_orjson:.1f}× (orjson)",
        baseline="the same rows as token lists in JSONL, read by orjson; the same documents in JSONL",
        how=f"CPU-seconds on {loading['sample_tokens']:,} tokens and {loading['sample_documents']:,} documents "
        "of all domains; met when training rows reach 5×",
        met=rows >= EXPECTED_SPEEDUP,
    )


def loading_memory(loading: Metadata) -> Measurement | None:
    """How much less memory shuffled training rows take than from JSONL, or None when it was not measured."""
    names = ("rows_memory_bytes", "shuffled_jsonl_memory_bytes", "unshuffled_jsonl_memory_bytes")
    if not all(name in loading for name in names):
        return None
    packed, shuffled, unshuffled = (loading[name] for name in names)
    saved = 1 - packed / shuffled if shuffled else 0.0
    buffered = min(loading["shuffle_buffer_rows"], loading["sample_rows"])
    return Measurement(
        measured=f"{percent(saved)} less: {size(packed)} instead of {size(shuffled)}",
        baseline=f"JSONL token lists through orjson and a shuffle buffer of {buffered:,} rows "
        f"(in stored order, without shuffling, JSONL takes {size(unshuffled)})",
        how="peak memory over the interpreter and its libraries, each reader in a fresh process",
        met=saved >= EXPECTED_MEMORY_SAVED,
    )


def software_versions() -> dict[str, str]:
    """Versions of what computed the figures."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }

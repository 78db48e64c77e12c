"""eval_report: is the merged model better than the base, by how much, and what did it cost?"""

import datetime as dt
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import AssetExecutionContext, asset

from resources.compute import Compute
from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, check_specs, publish
from resources.settings import REPOSITORY, PipelineConfig, Settings
from resources.snapshot import Snapshot
from resources.upstream import require_made_from
from yunmin_assets.documents import SYNTHETIC_SOURCE, read_documents, split_path
from yunmin_assets.files import sha256_of
from yunmin_assets.snapshot_files import (
    DIFFERENCE,
    MODEL,
    TEST_FILE,
    TRAIN_FILE,
    WEIGHTS_FILE,
    decisions_file,
)

if TYPE_CHECKING:
    from yunmin_assets.evaluation.model import PerplexityCell, Report

GRAPH = {
    "raw_corpus": True,
    "clean_corpus": True,
    "signatures": True,
    "duplicate_clusters": False,
    "deduped_corpus": True,
    "tokenizer": False,
    "reference_model": False,
    "perplexity": True,
    "pruning_thresholds": False,
    "pruned_corpus": True,
    "parquet_shards": True,
    "base_model": False,
    "lora_adapter": True,
    "diff_vector": True,
    "domain_weights": False,
    "merged_model": False,
}
"""Every asset behind the report, upstream first, and whether it has a partition per domain."""


@dataclass(frozen=True)
class Lineage:
    """Every snapshot behind one merged model."""

    over_all: Mapping[str, Snapshot]
    by_domain: Mapping[str, Mapping[str, Snapshot]]
    """Asset → domain → snapshot."""
    loading: Snapshot | None
    """The loading benchmark, when it was measured on these shards; the report does without."""

    @property
    def domains(self) -> list[str]:
        """The domains that were merged."""
        return list(self.by_domain["diff_vector"])

    def all(self) -> Iterator[tuple[str, Snapshot]]:
        """(asset, snapshot), in the order of the graph."""
        for name, is_partitioned in GRAPH.items():
            snapshots = self.by_domain[name].values() if is_partitioned else [self.over_all[name]]
            yield from ((name, snapshot) for snapshot in snapshots)

    def metadata(self, asset_name: str, domain: str | None = None) -> Mapping[str, Any]:
        """What a snapshot recorded about itself."""
        snapshot = self.by_domain[asset_name][domain] if domain else self.over_all[asset_name]
        metadata: Mapping[str, Any] = snapshot.manifest.summary["metadata"]
        return metadata


@asset(
    # and, through them, all in GRAPH
    deps=["merged_model", "base_model", "diff_vector", "deduped_corpus", "loading_benchmark"],
    group_name="evaluation",
    kinds={"html", "pytorch"},
    owners=["team:yunmin-models"],
    pool="gpu",
    code_version="1",
    check_specs=check_specs(
        "eval_report",
        {"perplexity_finite": "The perplexity of the merged model is a finite number in every domain."},
        warning={
            "no_regression": "The merged model is not shown to be worse than the base in any domain.",
            "base_never_saw_test": "No domain was split anew since the base was trained.",
        },
        partitioned=False,
    ),
)
def eval_report(context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute) -> Events:
    """Base, each domain's own model and the merged model on test documents; JSON for machines, HTML for people.

    The only asset that reads the test split.
    """
    lineage, pipeline = _lineage(lake), settings.pipeline
    prompts = REPOSITORY / pipeline.evaluation.prompts
    tested = {
        domain: lineage.by_domain["deduped_corpus"][domain].file(TEST_FILE) for domain in lineage.domains
    }
    inputs = {
        **{name: snapshot.content_hash for name, snapshot in lineage.over_all.items()},
        **{
            f"{name}[{domain}]": item.content_hash
            for name, by in lineage.by_domain.items()
            for domain, item in by.items()
        },
        "prompts": sha256_of(prompts),
        "loading_benchmark": lineage.loading.content_hash if lineage.loading else "",
    }
    bytes_in = sum(file.bytes for file in tested.values())
    step = Step(context, lake, inputs, pipeline.evaluation.model_dump(mode="json"), bytes_in=bytes_in)

    def evaluate(folder: Path) -> Outcome:
        from yunmin_assets.evaluation.report import headline, write_report

        compute.prepare()
        report = _measure(step, lineage, pipeline, prompts)
        write_report(report, folder)
        return _describe(report, headline(report).sentence, _base_saw_other_splits(lineage))

    yield from publish(step, evaluate)


def _lineage(lake: Lake) -> Lineage:
    """The snapshots behind the current merged model, refusing any that do not belong to it."""
    over_all = {name: lake.current(name) for name, is_partitioned in GRAPH.items() if not is_partitioned}
    merged = over_all["merged_model"]
    require_made_from(merged, "base_model", over_all["base_model"].content_hash)
    require_made_from(merged, "domain_weights", over_all["domain_weights"].content_hash)
    weights = json.loads((over_all["domain_weights"].local / WEIGHTS_FILE).read_text(encoding="utf-8"))[
        "weights"
    ]
    by_domain = {
        name: {domain: lake.current(name, domain) for domain in sorted(weights)}
        for name, is_partitioned in GRAPH.items()
        if is_partitioned
    }
    lineage = Lineage(over_all, by_domain, loading_benchmark_of(lake, by_domain["parquet_shards"]))
    for domain in lineage.domains:
        _require_unbroken(lineage, domain)
    return lineage


def loading_benchmark_of(lake: Lake, shards: Mapping[str, Snapshot]) -> Snapshot | None:
    """The loading benchmark that was measured on these shards of each domain, if there is one."""
    benchmark = lake.find("loading_benchmark")
    measured_on = benchmark.manifest.inputs if benchmark else {}
    is_current = all(
        measured_on.get(f"parquet_shards[{domain}]") == item.content_hash for domain, item in shards.items()
    )
    return benchmark if is_current else None


def _require_unbroken(lineage: Lineage, domain: str) -> None:
    """Refuse a domain whose current snapshots were not made from one another: its test set may have been trained on.

    Raises:
        LakeError: naming the asset to materialize again.
    """
    own = {name: snapshots[domain] for name, snapshots in lineage.by_domain.items()}
    decisions = lineage.over_all["duplicate_clusters"].file(decisions_file(domain)).sha256
    require_made_from(own["deduped_corpus"], f"duplicate_clusters[{domain}]", decisions)
    require_made_from(
        own["pruned_corpus"], "deduped_corpus train", own["deduped_corpus"].file(TRAIN_FILE).sha256
    )
    for name, upstream in (("parquet_shards", "pruned_corpus"), ("lora_adapter", "parquet_shards")):
        require_made_from(own[name], upstream, own[upstream].content_hash)
    require_made_from(own["diff_vector"], "lora_adapter", own["lora_adapter"].content_hash)
    merged = lineage.over_all["merged_model"]
    require_made_from(merged, f"diff_vector[{domain}]", own["diff_vector"].content_hash)


def _base_saw_other_splits(lineage: Lineage) -> list[str]:
    """Domains that were split anew since the base was trained here, so that it may have seen their test documents."""
    trained_on = lineage.over_all["base_model"].manifest.inputs
    return [
        domain
        for domain, snapshot in lineage.by_domain["deduped_corpus"].items()
        if trained_on.get(f"deduped_corpus[{domain}]", "") not in ("", snapshot.file(TRAIN_FILE).sha256)
    ]


def _measure(step: Step, lineage: Lineage, pipeline: PipelineConfig, prompts: Path) -> "Report":
    from yunmin_assets.evaluation.measure import (
        choose_documents,
        generate_continuations,
        measure_perplexity,
        read_prompts,
    )
    from yunmin_assets.evaluation.model import BASE, MERGED, MINI

    config = pipeline.evaluation
    test_sets = {
        domain: choose_documents(
            read_documents([split_path(lineage.by_domain["deduped_corpus"][domain].local, "test")]),
            config.documents_per_domain,
        )
        for domain in lineage.domains
    }
    base, merged = (lineage.over_all[name].local / MODEL for name in ("base_model", "merged_model"))
    minis = _mini_models(lineage, base, step.workspace() / "minis")
    same = {BASE: base, MERGED: merged}
    models = {name: dict.fromkeys(lineage.domains, folder) for name, folder in same.items()}
    cells = measure_perplexity(
        test_sets, {BASE: models[BASE], MINI: minis, MERGED: models[MERGED]}, config, log=step.log
    )
    generations = generate_continuations(same, read_prompts(prompts), config, log=step.log)
    is_synthetic = any(
        str(source).startswith(SYNTHETIC_SOURCE)
        for table in test_sets.values()
        for source in table["source"].to_pylist()
    )
    return _assemble(lineage, pipeline, cells, generations, is_synthetic)


def _mini_models(lineage: Lineage, base: Path, folder: Path) -> dict[str, Path]:
    """The model of each domain alone: the base plus its own difference, whole."""
    from yunmin_assets.dem import merge_checkpoints

    minis = {}
    for domain, snapshot in lineage.by_domain["diff_vector"].items():
        minis[domain] = folder / domain
        shutil.rmtree(minis[domain], ignore_errors=True)
        merge_checkpoints(base, {domain: snapshot.local / DIFFERENCE}, {domain: 1.0}, minis[domain])
    return minis


def _assemble(
    lineage: Lineage,
    pipeline: PipelineConfig,
    cells: "list[PerplexityCell]",
    generations: list[Any],
    is_synthetic: bool,
) -> "Report":
    from yunmin_assets.evaluation import collect
    from yunmin_assets.evaluation.model import Report

    search = json.loads((lineage.over_all["domain_weights"].local / WEIGHTS_FILE).read_text(encoding="utf-8"))
    stages = ("clean_corpus", "deduped_corpus", "pruned_corpus", "parquet_shards")
    funnel = [
        collect.funnel_row(domain, *(lineage.metadata(name, domain) for name in stages))
        for domain in lineage.domains
    ]
    base = lineage.metadata("base_model")
    return Report(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        corpus=", ".join(lineage.domains),
        synthetic=is_synthetic,
        base_model=f"{base['architecture']}, {base['parameters']:,} parameters",
        confidence=pipeline.evaluation.confidence,
        bootstrap_samples=pipeline.evaluation.bootstrap_samples,
        funnel=tuple(funnel),
        duplicate_recall=collect.duplicate_recall(
            lineage.metadata("duplicate_clusters"), pipeline.dedup.threshold
        ),
        perplexity=tuple(cells),
        weights=collect.merged_weights(search),
        candidates=tuple(collect.candidate_rows(search)),
        generations=tuple(generations),
        cost=tuple(
            collect.cost_rows((name, item.manifest.cost.model_dump()) for name, item in lineage.all())
        ),
        expectations=collect.expectation_rows(
            funnel, cells, lineage.loading.manifest.summary["metadata"] if lineage.loading else None
        ),
        notes=NOTES,
        versions=collect.software_versions(),
        seeds={
            "dedup": pipeline.dedup.seed,
            "base model": pipeline.base_model.training.seed,
            "LoRA adapters": pipeline.lora_adapter.training.seed,
            "bootstrap": pipeline.evaluation.seed,
        },
        hashes={name: item.content_hash[:12] for name, item in lineage.over_all.items()},
    )


NOTES = (
    "Perplexity is measured on test documents that no other asset has read. It compares models with the same "
    "tokenizer; it does not say how useful a model is.",
    "A domain with fewer than 20 test documents gets no verdict: so few cannot show a difference.",
    "Mini is the base plus the whole difference of that one domain. Merged is one model for all domains.",
    "Pruning is judged by what a model trained on the kept documents can do, never by perplexity alone.",
)


def _describe(report: "Report", sentence: str, seen: list[str]) -> Outcome:
    import math

    from yunmin_assets.evaluation.model import MERGED
    from yunmin_assets.plots import markdown_table

    merged = [cell for cell in report.perplexity if cell.model == MERGED]
    worse = [cell.domain for cell in merged if cell.verdict == "worse"]
    rows = [
        (cell.domain, cell.model, cell.perplexity, f"{cell.low:,.1f}–{cell.high:,.1f}", cell.verdict or "")
        for cell in report.perplexity
    ]
    summary: dict[str, Any] = {
        "headline": sentence,
        "synthetic": report.synthetic,
        **{f"perplexity {cell.model} {cell.domain}": cell.perplexity for cell in report.perplexity},
        "perplexity": Markdown(
            markdown_table(["domain", "model", "perplexity", "interval", "against base"], rows)
        ),
    }
    checks = (
        Check(
            "perplexity_finite",
            all(math.isfinite(cell.perplexity) for cell in merged),
            "finite in every domain",
        ),
        Check(
            "base_never_saw_test",
            not seen,
            f"materialize base_model again for: {', '.join(seen)}" if seen else "no domain was split anew",
            blocking=False,
        ),
        Check(
            "no_regression",
            not worse,
            f"worse: {', '.join(worse)}" if worse else "none is worse",
            blocking=False,
        ),
    )
    return Outcome(summary, checks, tokens=sum(cell.tokens for cell in report.perplexity))

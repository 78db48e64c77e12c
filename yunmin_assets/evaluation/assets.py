"""eval_report: is the merged model better than the base, by how much, and what did it cost?"""

import datetime as dt
import importlib.metadata
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import AssetExecutionContext

from resources.compute import Compute
from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, asset, check_specs, publish
from resources.settings import REPOSITORY, PipelineConfig, Settings
from resources.snapshot import Snapshot
from resources.upstream import find_made_from, require_made_from
from yunmin_assets.config_model import Location
from yunmin_assets.documents import split_path
from yunmin_assets.files import folder_hash, sha256_of
from yunmin_assets.progress import Log
from yunmin_assets.snapshot_files import (
    ADAPTER,
    DIFFERENCE,
    MODEL,
    TEST_FILE,
    TRAIN_FILE,
    WEIGHTS_FILE,
    decisions_file,
)

if TYPE_CHECKING:
    from yunmin_assets.evaluation.blind_sheet import HumanVerdict
    from yunmin_assets.evaluation.evaluate import Findings, Models
    from yunmin_assets.evaluation.model import Report

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
    joint: Snapshot | None
    """The joint adapter, when it is the control of these adapters; the report does without."""

    @property
    def domains(self) -> list[str]:
        """The domains that were merged."""
        return list(self.by_domain["diff_vector"])

    def all(self) -> Iterator[tuple[str, Snapshot]]:
        """(asset, snapshot), in the order of the graph."""
        for name, is_partitioned in GRAPH.items():
            snapshots = self.by_domain[name].values() if is_partitioned else [self.over_all[name]]
            yield from ((name, snapshot) for snapshot in snapshots)
        if self.joint is not None:
            yield "joint_adapter", self.joint

    def metadata(self, asset_name: str, domain: str | None = None) -> Mapping[str, Any]:
        """What a snapshot recorded about itself."""
        snapshot = self.by_domain[asset_name][domain] if domain else self.over_all[asset_name]
        metadata: Mapping[str, Any] = snapshot.manifest.summary["metadata"]
        return metadata


@asset(
    # and, through them, all in GRAPH
    deps=[
        "merged_model",
        "base_model",
        "diff_vector",
        "deduped_corpus",
        "joint_adapter",
        "loading_benchmark",
    ],
    group_name="evaluation",
    kinds={"html", "pytorch"},
    owners=["team:yunmin-models"],
    pool="gpu",
    code_version="2",
    check_specs=check_specs(
        "eval_report",
        {"perplexity_finite": "The perplexity of the merged model is a finite number in every domain."},
        warning={
            "no_regression": "The merged model is not shown to be worse than the base in any domain.",
            "not_worse_than_before": "Nor than the merged model of the last report, on the same documents.",
            "base_never_saw_test": "No domain was split anew since the base was trained.",
            "every_item_usable": "Every item of every benchmark could be asked, and every model answered it.",
        },
        partitioned=False,
    ),
)
def eval_report(context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute) -> Events:
    """Base, each domain's own model, the joint control and the merged model: perplexity, texts, benchmarks, cost.

    The only asset that reads the test split. JSON for machines, HTML for people, a blind sheet for a judge.
    """
    lineage, pipeline = _lineage(lake), settings.pipeline
    config = pipeline.evaluation
    prompts, rules = _given(lake, config.prompts), _given(lake, config.scoring_rules)
    benchmarks = _given(lake, config.benchmarks) if config.benchmarks else None
    ratings = _given(lake, config.ratings) if config.ratings else None
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
        "rules": sha256_of(rules),
        "benchmarks": folder_hash(benchmarks) if benchmarks else "",
        "ratings": sha256_of(ratings) if ratings else "",
        "loading_benchmark": lineage.loading.content_hash if lineage.loading else "",
        "joint_adapter": lineage.joint.content_hash if lineage.joint else "",
        "kiwipiepy": importlib.metadata.version("kiwipiepy"),  # its language model judges what is written
    }
    bytes_in = sum(file.bytes for file in tested.values())
    step = Step(context, lake, inputs, config.model_dump(mode="json"), bytes_in=bytes_in)

    def run(folder: Path) -> Outcome:
        from yunmin_assets.evaluation.evaluate import evaluate_models, read_questions
        from yunmin_assets.evaluation.history import read_history, write_history
        from yunmin_assets.evaluation.model import MERGED
        from yunmin_assets.evaluation.regression import compare_with_last, write_losses
        from yunmin_assets.evaluation.report import REPORT_JSON, write_report

        compute.prepare()
        questions = read_questions(prompts, rules, benchmarks)
        past = [lake.open("eval_report", None, version) for version in lake.versions("eval_report")]
        human = _read_ratings(ratings, past, config.confidence) if ratings else None
        scratch = step.workspace() / "models.tmp"  # made anew by each attempt, so nobody has to keep it
        models = _models(lineage, scratch, log=step.log)
        deduped = lineage.by_domain["deduped_corpus"]
        findings = evaluate_models(
            models,
            {domain: split_path(deduped[domain].local, "test") for domain in lineage.domains},
            [split_path(snapshot.local, "train") for snapshot in deduped.values()],
            questions,
            config,
            folder,
            log=step.log,
        )
        write_losses(findings.losses, folder)
        last = lake.find("eval_report")
        changes = compare_with_last(findings.losses, last.local, MERGED, config) if last else []
        created = last.manifest.created if last else None
        report = _assemble(lineage, pipeline, findings, human).model_copy(
            update={"changes": tuple(changes), "last_report": created}
        )
        write_report(report, folder)
        versions = [
            *((each.manifest.version, each.local / REPORT_JSON) for each in past),
            ("this report", folder / REPORT_JSON),
        ]
        write_history(*read_history(versions), folder)
        return _describe(report, _base_saw_other_splits(lineage))

    yield from publish(step, run)


def _given(lake: Lake, location: Location) -> Path:
    """What the configuration names, on this machine."""
    return lake.fetch(location) if isinstance(location, str) else REPOSITORY / location


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
    adapters = {
        f"lora_adapter[{domain}]": item.content_hash for domain, item in by_domain["lora_adapter"].items()
    }
    lineage = Lineage(
        over_all,
        by_domain,
        loading_benchmark_of(lake, by_domain["parquet_shards"]),
        find_made_from(lake, "joint_adapter", adapters),
    )
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


def _read_ratings(path: Path, past: Sequence[Snapshot], confidence: float) -> "HumanVerdict":
    """Un-blind what a person saved, with the key that lies beside the report whose sheet it was."""
    from yunmin_assets.evaluation.blind_sheet import KEY_FILE, read_key, read_ratings

    keys = [read_key(each.local / KEY_FILE) for each in past if (each.local / KEY_FILE).exists()]
    return read_ratings(path, keys, confidence=confidence)


def _models(lineage: Lineage, folder: Path, *, log: Log) -> "Models":
    """Base and merged model as they are; each domain's own and the joint control as whole models made here."""
    from yunmin_assets.dem import diff_domain_model, merge_checkpoints
    from yunmin_assets.evaluation.evaluate import Models

    shutil.rmtree(folder, ignore_errors=True)
    base, merged = (lineage.over_all[name].local / MODEL for name in ("base_model", "merged_model"))
    minis = {}
    for domain, snapshot in lineage.by_domain["diff_vector"].items():
        minis[domain] = folder / domain
        merge_checkpoints(base, {domain: snapshot.local / DIFFERENCE}, {domain: 1.0}, minis[domain], log=log)
    joint = None
    if lineage.joint is not None:
        joint, difference = folder / "_joint", folder / "_joint_difference"
        diff_domain_model(base, lineage.joint.local / ADAPTER, difference, log=log)
        merge_checkpoints(base, {"joint": difference}, {"joint": 1.0}, joint, log=log)
    return Models(base, merged, minis, joint)


def _assemble(
    lineage: Lineage, pipeline: PipelineConfig, findings: "Findings", human: "HumanVerdict | None"
) -> "Report":
    from yunmin_assets.evaluation import collect
    from yunmin_assets.evaluation.model import Report

    search = json.loads((lineage.over_all["domain_weights"].local / WEIGHTS_FILE).read_text(encoding="utf-8"))
    stages = ("clean_corpus", "deduped_corpus", "pruned_corpus", "parquet_shards")
    funnel = [
        collect.funnel_row(domain, *(lineage.metadata(name, domain) for name in stages))
        for domain in lineage.domains
    ]
    costs = [(name, item.manifest.cost.model_dump()) for name, item in lineage.all()]
    base = lineage.metadata("base_model")
    return Report(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        corpus=", ".join(lineage.domains),
        synthetic=findings.synthetic,
        base_model=f"{base['architecture']}, {base['parameters']:,} parameters",
        confidence=pipeline.evaluation.confidence,
        bootstrap_samples=pipeline.evaluation.bootstrap_samples,
        funnel=tuple(funnel),
        duplicate_recall=collect.duplicate_recall(
            lineage.metadata("duplicate_clusters"), pipeline.dedup.threshold
        ),
        perplexity=tuple(findings.cells),
        weights=collect.merged_weights(search),
        candidates=tuple(collect.candidate_rows(search)),
        generations=tuple(findings.generations),
        criteria=tuple(findings.criteria),
        text_scores=tuple(findings.text_scores),
        human=tuple(collect.human_rows(human)) if human else (),
        human_errors=human.errors if human else (),
        choices=tuple(findings.choices),
        contamination=tuple(findings.contamination),
        cost=tuple(collect.cost_rows(costs)),
        expectations=collect.expectation_rows(
            funnel,
            findings.cells,
            lineage.loading.manifest.summary["metadata"] if lineage.loading else None,
            collect.training_cost(costs),
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


def _describe(report: "Report", seen: list[str]) -> Outcome:
    from yunmin_assets.evaluation.summary import describe_report, report_checks

    figures, rendered = describe_report(report)
    summary = {**figures, **{name: Markdown(text) for name, text in rendered.items()}}
    checks = [Check(**vars(each)) for each in report_checks(report, seen)]
    return Outcome(summary, tuple(checks), tokens=sum(cell.tokens for cell in report.perplexity))

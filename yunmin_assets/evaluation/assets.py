"""eval_report: is the merged model better than the base, by how much, and what did it cost?"""

import datetime as dt
import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import AssetExecutionContext

from resources.compute import Compute
from resources.lake import Lake
from resources.lineage import Lineage, read_lineage, splits_behind_base, trained_on
from resources.publishing import Check, Events, Markdown, Outcome, Step, asset, check_specs, publish
from resources.settings import REPOSITORY, PipelineConfig, Settings
from yunmin_assets.documents import split_path
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.files import folder_hash, sha256_of
from yunmin_assets.progress import Log
from yunmin_assets.snapshot_files import (
    ADAPTER,
    DIFFERENCE,
    MODEL,
    TEST_FILE,
    TRAIN_FILE,
    WEIGHTS_FILE,
)

if TYPE_CHECKING:
    from yunmin_assets.evaluation.evaluate import Findings, Models
    from yunmin_assets.evaluation.model import Report
    from yunmin_assets.evaluation.summary import Finding

REPORTS_IN_HISTORY = 50
RATED_MODELS = ("base_model", "merged_model")


@asset(
    # and, through them, all in `resources.lineage.GRAPH`
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
        {},  # a loss that is not a number stops the report and names the document
        warning={
            "no_regression": "The merged model is not shown to be worse than the base in anything measured.",
            "not_worse_than_before": "Nor than the merged model of the last report, on the same documents.",
            "base_never_saw_test": "The base was trained here, and no domain was split anew since.",
            "every_item_usable": "Every item of every benchmark could be asked, and every model answered it.",
        },
        partitioned=False,
    ),
)
def eval_report(context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute) -> Events:
    """Base, each domain's own model, the joint control and the merged model: perplexity, texts, benchmarks, cost.

    The only asset that reads the test split. JSON for machines, HTML for people, a blind sheet for a judge.
    """
    lineage, config = read_lineage(lake), settings.pipeline.evaluation
    corpora, asked = trained_on(lake, lineage), _asked(lake, config)
    inputs = {
        **lineage.hashes(),
        **{f"deduped_corpus[{domain}]": snapshot.content_hash for domain, snapshot in corpora.items()},
        **{name: folder_hash(path) if path.is_dir() else sha256_of(path) for name, path in asked.items()},
        "kiwipiepy": importlib.metadata.version("kiwipiepy"),  # its language model judges what is written
    }
    tested = [lineage.by_domain["deduped_corpus"][domain].file(TEST_FILE) for domain in lineage.domains]
    trained = [snapshot.file(TRAIN_FILE) for snapshot in corpora.values()]
    bytes_in = sum(file.bytes for file in [*tested, *trained])
    step = Step(context, lake, inputs, config.model_dump(mode="json"), bytes_in=bytes_in)
    removed = sorted(set(splits_behind_base(lineage)) - set(corpora))
    if removed:
        step.log(f"the base was trained on {', '.join(removed)}, no longer in the lake: not looked up there")

    def run(folder: Path) -> Outcome:
        from yunmin_assets.evaluation.evaluate import evaluate_models, read_questions

        compute.prepare()
        questions = read_questions(asked["prompts"], asked["rules"], asked.get("benchmarks"), log=step.log)
        past = Past(lake)
        human = past.ratings(asked["ratings"], inputs, config.confidence) if config.ratings else {}
        deduped = lineage.by_domain["deduped_corpus"]
        findings = evaluate_models(
            # made anew by each attempt: nobody has to keep it
            _models(lineage, step.workspace() / "models.tmp", log=step.log),
            {domain: split_path(deduped[domain].local, "test") for domain in lineage.domains},
            [split_path(snapshot.local, "train") for snapshot in corpora.values()],
            questions,
            config,
            folder,
            step.workspace() / "measured",
            log=step.log,
        )
        present = {name: content_hash for name, content_hash in inputs.items() if content_hash}
        report = _assemble(lineage, settings.pipeline, findings, removed)
        report = report.model_copy(
            update={"hashes": present, **human, **past.changes(findings, config, step.log)}
        )
        past.write_with(report, folder)
        return _describe(report, lineage)

    yield from publish(step, run)


def _asked(lake: Lake, config: EvaluationConfig) -> dict[str, Path]:
    """What is asked and what a person answered, by name; what is not configured is absent."""
    paths = {
        "prompts": config.prompts,
        "rules": config.scoring_rules,
        "benchmarks": config.benchmarks,
        "ratings": config.ratings,
    }
    given = {name: path for name, path in paths.items() if path is not None}
    return {
        name: lake.fetch(path) if isinstance(path, str) else REPOSITORY / path for name, path in given.items()
    }


class Past:
    """The reports made so far."""

    def __init__(self, lake: Lake) -> None:
        versions = lake.versions("eval_report")[-REPORTS_IN_HISTORY:]
        self._snapshots = [lake.open("eval_report", None, version) for version in versions]
        self._last = lake.find_to_replace("eval_report")

    def ratings(self, path: Path, inputs: Mapping[str, str], confidence: float) -> dict[str, Any]:
        """What a person saved, un-blinded with the key beside the report whose sheet it was: fields of the report."""
        from yunmin_assets.evaluation.blind_sheet import KEY_FILE, read_key, read_ratings
        from yunmin_assets.evaluation.collect import human_rows

        sheets = [
            (read_key(each.local / KEY_FILE), each.manifest)
            for each in self._snapshots
            if (each.local / KEY_FILE).exists()
        ]
        found = read_ratings(path, [key for key, _ in sheets], confidence=confidence)
        rated = next(manifest for key, manifest in reversed(sheets) if key.sheet == found.sheet)
        return {
            "human": tuple(human_rows(found)),
            "human_errors": found.errors,
            "rated_report": rated.created,
            "rated_models_are_current": all(rated.inputs.get(name) == inputs[name] for name in RATED_MODELS),
        }

    def changes(self, findings: "Findings", config: EvaluationConfig, log: Log) -> dict[str, Any]:
        """The merged model against that of the last report: fields of the report."""
        from yunmin_assets.evaluation.answer_regression import compare_answers_with_last
        from yunmin_assets.evaluation.model import MERGED
        from yunmin_assets.evaluation.regression import compare_with_last

        if self._last is None:
            return {}
        folder = self._last.local
        return {
            "last_report": self._last.manifest.created,
            "changes": tuple(compare_with_last(findings.losses, folder, MERGED, config)),
            "choice_changes": tuple(
                compare_answers_with_last(findings.answers, folder, MERGED, config, log=log)
            ),
        }

    def write_with(self, report: "Report", folder: Path) -> None:
        """Write a report and the history that ends in it."""
        from yunmin_assets.evaluation.history import read_history, write_history
        from yunmin_assets.evaluation.report import REPORT_JSON, write_report

        write_report(report, folder)
        reports = [(each.manifest.version, each.local / REPORT_JSON) for each in self._snapshots]
        write_history(*read_history([*reports, ("this report", folder / REPORT_JSON)]), folder)


def _base_never_saw_test(lineage: Lineage) -> "Finding":
    from yunmin_assets.evaluation.summary import Finding

    name, splits = "base_never_saw_test", splits_behind_base(lineage)
    if not splits:
        return Finding(name, False, "the base came from outside: what it was trained on is not known here")
    anew = [
        domain
        for domain, snapshot in lineage.by_domain["deduped_corpus"].items()
        if splits.get(domain, "") not in ("", snapshot.file(TRAIN_FILE).sha256)
    ]
    cure = f"split anew since, materialize base_model again: {', '.join(anew)}"
    return Finding(name, not anew, cure if anew else "no domain was split anew")


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
    lineage: Lineage, pipeline: PipelineConfig, findings: "Findings", removed: list[str]
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
        choices=tuple(findings.choices),
        contamination=tuple(findings.contamination),
        cost=tuple(collect.cost_rows(costs)),
        expectations=collect.expectation_rows(
            funnel,
            findings.cells,
            lineage.loading.manifest.summary["metadata"] if lineage.loading else None,
            collect.training_cost(costs),
        ),
        notes=(*NOTES, *([NOT_LOOKED_UP.format(", ".join(removed))] if removed else [])),
        versions=collect.software_versions(),
        seeds={
            "dedup": pipeline.dedup.seed,
            "base model": pipeline.base_model.training.seed,
            "LoRA adapters": pipeline.lora_adapter.training.seed,
            "bootstrap": pipeline.evaluation.seed,
        },
        options=pipeline.evaluation.model_dump(mode="json"),
    )


NOT_LOOKED_UP = (
    "The base was trained on documents of {}, which are no longer in the lake: contamination by them is "
    "not known."
)
NOTES = (
    "Perplexity is measured on test documents that no other asset has read. It compares models with the same "
    "tokenizer; it does not say how useful a model is.",
    "A domain with fewer than 20 test documents gets no verdict: so few cannot show a difference.",
    "Mini is the base plus the whole difference of that one domain. Merged is one model for all domains.",
    "Pruning is judged by what a model trained on the kept documents can do, never by perplexity alone.",
)


def _describe(report: "Report", lineage: Lineage) -> Outcome:
    from yunmin_assets.evaluation.summary import describe_report, report_checks

    figures, rendered = describe_report(report)
    summary = {**figures, **{name: Markdown(text) for name, text in rendered.items()}}
    checks = [Check(**vars(each)) for each in report_checks(report, _base_never_saw_test(lineage))]
    return Outcome(summary, tuple(checks), tokens=sum(cell.tokens for cell in report.perplexity))

"""reference_model, perplexity and pruned_corpus: documents that teach little are left out."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, asset

from resources.compute import Compute
from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, check_specs, publish
from resources.settings import Settings
from resources.upstream import EVERY_DOMAIN_PRESENT, over_all_domains, require_made_from
from yunmin_assets.documents import read_documents, split_path
from yunmin_assets.partitions import domain_partitions
from yunmin_assets.snapshot_files import TOKENIZER, TRAIN_FILE

if TYPE_CHECKING:
    from yunmin_assets.language_model import TrainingResult
    from yunmin_assets.pruning.reference import Half

OWNERS = ["team:yunmin-models"]
SCORES_FILE = "scores.parquet"


@asset(
    deps=["deduped_corpus", "tokenizer"],
    group_name="pruning",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    pool="gpu",
    code_version="2",
    check_specs=check_specs(
        "reference_model",
        {"loss_finite": "Every training loss is a finite number."},
        warning=EVERY_DOMAIN_PRESENT,
        partitioned=False,
    ),
)
def reference_model(
    context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute
) -> Events:
    """Two small Mamba models, each trained on one half of the documents, to score the other half."""
    deduped, vocabulary = over_all_domains(context, lake, "deduped_corpus"), lake.current("tokenizer")
    config = settings.pipeline.reference_model
    inputs = {**deduped.hashes(TRAIN_FILE), "tokenizer": vocabulary.content_hash}
    options = {
        "reference_model": config.model_dump(mode="json"),
        "pack": settings.pipeline.pack.fingerprint_options(),
    }
    step = Step(context, lake, inputs, options, bytes_in=deduped.bytes(TRAIN_FILE))
    files = [split_path(snapshot.local, "train") for snapshot in deduped.snapshots.values()]

    def compute_models(folder: Path) -> Outcome:
        from yunmin_assets.columnar.mixture import mixture_batches
        from yunmin_assets.language_model.summary import describe_training
        from yunmin_assets.pruning.reference import SCORED_BY, is_in_half, train_reference_model

        compute.prepare()
        work, results = step.workspace(), dict[str, "TrainingResult"]()
        for half in SCORED_BY:
            step.log(f"half {half}")
            batches = mixture_batches(
                files,
                vocabulary.local / TOKENIZER,
                work / f"packed-{half}",
                settings.pack_config(vocabulary),
                batch_size=config.training.batch_size,
                seed=config.training.seed,
                belongs=partial(is_in_half, half),
                log=step.log,
            )
            results[f"half {half}"] = train_reference_model(
                half, batches, config, vocabulary.local / TOKENIZER, folder, work, log=step.log
            )
        figures, is_finite, plot = describe_training(results)
        checks = (Check("loss_finite", is_finite, "all losses are finite"), deduped.check())
        return Outcome(
            {**figures, "loss": Markdown(plot)}, checks, tokens=sum(r.tokens for r in results.values())
        )

    yield from publish(step, compute_models)


@asset(
    partitions_def=domain_partitions,
    deps=["deduped_corpus", "reference_model"],
    group_name="pruning",
    kinds={"pytorch", "parquet"},
    owners=OWNERS,
    pool="gpu",
    code_version="1",
    check_specs=check_specs(
        "perplexity",
        {
            "every_document_scored": "Every training document has a score.",
            "scores_finite": "Every document with tokens has a finite perplexity.",
        },
    ),
)
def perplexity(context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute) -> Events:
    """Perplexity and bits per byte of each training document, by the reference model that never saw it."""
    deduped, reference = (
        lake.current("deduped_corpus", context.partition_key),
        lake.current("reference_model"),
    )
    config, train = settings.pipeline.pruning, deduped.file(TRAIN_FILE)
    inputs = {"deduped_corpus train": train.sha256, "reference_model": reference.content_hash}
    scoring = config.model_dump(mode="json", include={"token_budget", "max_length"})
    step = Step(context, lake, inputs, scoring, bytes_in=train.bytes)

    def score(folder: Path) -> Outcome:
        import pyarrow.parquet as pq

        from yunmin_assets.pruning.reference import SCORED_BY, cross_score
        from yunmin_assets.pruning.summary import describe_scores

        compute.prepare()
        documents = read_documents([split_path(deduped.local, "train")], columns=["id", "text"])
        models: dict[Half, Path] = {half: reference.local / half for half in SCORED_BY}
        scores = cross_score(
            documents, models, config.token_budget, max_length=config.max_length, log=step.log
        )
        pq.write_table(scores, folder / SCORES_FILE)
        figures, rendered, not_finite = describe_scores(scores, documents)
        checks = (
            Check(
                "every_document_scored", scores.num_rows == documents.num_rows, f"{scores.num_rows:,} scores"
            ),
            Check(
                "scores_finite",
                not not_finite,
                f"not finite: {not_finite[:5]}" if not_finite else "all are finite",
            ),
        )
        summary = {**figures, **{name: Markdown(text) for name, text in rendered.items()}}
        return Outcome(summary, checks, tokens=int(figures["tokens"]))

    yield from publish(step, score)


@asset(
    partitions_def=domain_partitions,
    deps=["deduped_corpus", "perplexity"],
    group_name="pruning",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="1",
    check_specs=check_specs(
        "pruned_corpus",
        {
            "not_empty": "There is something left to train on.",
            "every_document_accounted_for": "Kept and removed documents add up to the scored ones.",
        },
    ),
)
def pruned_corpus(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """The training documents that are kept by perplexity; validation and test are never pruned."""
    deduped, scored = (lake.current(name, context.partition_key) for name in ("deduped_corpus", "perplexity"))
    config, train = settings.pipeline.pruning, deduped.file(TRAIN_FILE)
    require_made_from(scored, "deduped_corpus train", train.sha256)
    inputs = {"deduped_corpus train": train.sha256, "perplexity": scored.content_hash}
    selecting = config.model_dump(mode="json", include={"criterion", "selection_rate", "seed"})
    step = Step(context, lake, inputs, selecting, bytes_in=train.bytes)

    def prune(folder: Path) -> Outcome:
        import pyarrow.parquet as pq

        from yunmin_assets.pruning.removal import prune_documents
        from yunmin_assets.pruning.summary import describe_selection

        documents = read_documents([split_path(deduped.local, "train")])
        scores = pq.read_table(scored.local / SCORES_FILE)
        selection = prune_documents(documents, scores, config, folder)
        figures, rendered = describe_selection(documents, scores, selection)
        removed = sum(selection.removed.values())
        kept = int(selection.kept.sum())
        checks = (
            Check("not_empty", kept > 0, f"{kept:,} documents are kept"),
            Check(
                "every_document_accounted_for",
                kept + removed == documents.num_rows,
                f"{kept:,} kept, {removed:,} removed",
            ),
        )
        return Outcome({**figures, **{name: Markdown(text) for name, text in rendered.items()}}, checks)

    yield from publish(step, prune)

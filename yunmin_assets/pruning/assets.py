"""reference_model, perplexity, pruning_thresholds, pruned_corpus: documents that teach little are left out.

pruning_study: which criterion to choose.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import AssetExecutionContext

from resources.compute import Compute
from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, asset, check_specs, publish
from resources.settings import Settings
from resources.upstream import EVERY_DOMAIN_PRESENT, Upstream, over_all_domains, require_made_from
from yunmin_assets.documents import split_path
from yunmin_assets.files import folder_hash
from yunmin_assets.partitions import domain_partitions
from yunmin_assets.pruning.reference_folders import models_in, require_checkpoint
from yunmin_assets.snapshot_files import TOKENIZER, TRAIN_FILE, VALIDATION_FILE

if TYPE_CHECKING:
    from yunmin_assets.language_model import TrainingResult

OWNERS = ["team:yunmin-models"]
SCORES_FILE = "scores.parquet"
OPTIONS_OF_A_STUDY = {"thresholds", "seed", "token_budget", "max_length"}
"""Of `pruning:`. Its criterion and rate are what a study helps to choose, so choosing does not make it out of date."""


def cut_file(domain: str) -> str:
    """Where a domain is cut, in `pruning_thresholds`."""
    return f"cuts/{domain}.json"


@asset(
    deps=["deduped_corpus", "tokenizer"],
    group_name="pruning",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    pool="gpu",
    code_version="2",
    check_specs=check_specs(
        "reference_model",
        {
            "loss_finite": "Every training loss is a finite number.",
            "loads_and_fits": "Every model loads, and its tokenizer has no more tokens than it knows.",
        },
        warning=EVERY_DOMAIN_PRESENT,
        partitioned=False,
    ),
)
def reference_model(
    context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute
) -> Events:
    """Who scores: two small Mamba models, each trained on one half of the documents; or a given checkpoint."""
    config = settings.pipeline.reference_model
    deduped = over_all_domains(context, lake, "deduped_corpus")
    options: dict[str, Any] = {"reference_model": config.model_dump(mode="json")}
    if config.path is not None:
        given = lake.fetch(config.path)
        require_checkpoint(given)
        step = Step(context, lake, {"reference_model.path": folder_hash(given)}, options)
        yield from publish(step, partial(_take_over, given, str(config.path), deduped, compute))
        return
    vocabulary = lake.current("tokenizer")
    inputs = {**deduped.hashes(TRAIN_FILE), "tokenizer": vocabulary.content_hash}
    options["pack"] = settings.pipeline.pack.fingerprint_options()
    step = Step(context, lake, inputs, options, bytes_in=deduped.bytes(TRAIN_FILE))
    files = [split_path(snapshot.local, "train") for snapshot in deduped.snapshots.values()]

    def compute_models(folder: Path) -> Outcome:
        from yunmin_assets.columnar.mixture import mixture_batches
        from yunmin_assets.language_model.summary import describe_training
        from yunmin_assets.pruning.halves import SCORED_BY, is_in_half
        from yunmin_assets.pruning.reference import describe_reference, train_reference_model

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
        facts = [describe_reference(folder / half) for half in SCORED_BY]
        figures, is_finite, plot = describe_training(results)
        checks = (
            Check("loss_finite", is_finite, "all losses are finite"),
            Check("loads_and_fits", True, f"vocabulary of {facts[0]['vocab_size']:,}"),
            deduped.check(),
        )
        summary = {**facts[0], **figures, "loss": Markdown(plot)}
        return Outcome(summary, checks, tokens=sum(result.tokens for result in results.values()))

    yield from publish(step, compute_models)


def _take_over(given: Path, name: str, deduped: Upstream, compute: Compute, folder: Path) -> Outcome:
    from yunmin_assets.pruning.reference import describe_reference, take_over_reference

    compute.prepare()
    facts = describe_reference(take_over_reference(given, folder))
    checks = (
        Check("loss_finite", True, "nothing was trained"),
        Check("loads_and_fits", True, f"vocabulary of {facts['vocab_size']:,}"),
        deduped.check(),
    )
    return Outcome({**facts, "taken_from": name}, checks)


@asset(
    partitions_def=domain_partitions,
    deps=["deduped_corpus", "reference_model"],
    group_name="pruning",
    kinds={"pytorch", "parquet"},
    owners=OWNERS,
    pool="gpu",
    code_version="2",
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
    step = Step(context, lake, inputs, config.scoring_options(), bytes_in=train.bytes)

    def score(folder: Path) -> Outcome:
        from yunmin_assets.pruning.shards import score_file
        from yunmin_assets.pruning.summary import describe_scores

        compute.prepare()
        documents, scores = split_path(deduped.local, "train"), folder / SCORES_FILE
        models = models_in(reference.local)
        score_file(documents, models, scores, config, step.workspace(), log=step.log)
        figures, rendered, not_finite = describe_scores(scores, documents)
        checks = (
            Check(
                "every_document_scored",
                figures["documents"] == train.rows,
                f"{figures['documents']:,} scores for {train.rows:,} documents",
            ),
            Check(
                "scores_finite",
                not not_finite,
                f"not finite: {not_finite[:5]}" if not_finite else "all are finite",
            ),
        )
        return Outcome({**figures, **_as_markdown(rendered)}, checks, tokens=int(figures["scored_tokens"]))

    yield from publish(step, score)


@asset(
    deps=["perplexity"],
    group_name="pruning",
    kinds={"numpy"},
    owners=OWNERS,
    pool="pruning_thresholds",  # one at a time: the later of two would publish without the other's domain
    code_version="1",
    check_specs=check_specs(
        "pruning_thresholds",
        {"kept_adds_up": "As many documents lie within the cuts as were decided on."},
        warning=EVERY_DOMAIN_PRESENT,
        partitioned=False,
    ),
)
def pruning_thresholds(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """Where each domain is cut by perplexity, and what that does to the mixture of domains."""
    scored, config = over_all_domains(context, lake, "perplexity"), settings.pipeline.pruning
    step = Step(context, lake, scored.hashes(), config.selection_options(), bytes_in=scored.bytes())

    def compute_cuts(folder: Path) -> Outcome:
        from yunmin_assets.pruning.selection import ScoreFile, find_cuts, require_something_of_each
        from yunmin_assets.pruning.shares import MEASURES, measure_domains
        from yunmin_assets.pruning.summary import describe_thresholds

        scores = {domain: snapshot.local / SCORES_FILE for domain, snapshot in scored.snapshots.items()}
        cuts = find_cuts({domain: ScoreFile(path) for domain, path in scores.items()}, config)
        require_something_of_each(cuts)
        for domain, cut in cuts.items():
            path = folder / cut_file(domain)
            path.parent.mkdir(exist_ok=True)
            path.write_text(cut.model_dump_json(indent=1))
        sizes = measure_domains(scores, cuts)
        counted = sum(int(size.after[MEASURES.index("documents")]) for size in sizes.values())
        decided = sum(cut.kept for cut in cuts.values())
        figures, rendered = describe_thresholds(scores, cuts, sizes)
        checks = (
            Check("kept_adds_up", counted == decided, f"{counted:,} kept, {decided:,} decided"),
            scored.check(),
        )
        return Outcome({**figures, **_as_markdown(rendered)}, checks)

    yield from publish(step, compute_cuts)


@asset(
    partitions_def=domain_partitions,
    deps=["deduped_corpus", "perplexity", "pruning_thresholds"],
    group_name="pruning",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="2",
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
    domain = context.partition_key
    deduped, scored = (lake.current(name, domain) for name in ("deduped_corpus", "perplexity"))
    thresholds, train = lake.current("pruning_thresholds"), deduped.file(TRAIN_FILE)
    require_made_from(scored, "deduped_corpus train", train.sha256)
    require_made_from(thresholds, f"perplexity[{domain}]", scored.content_hash)
    inputs = {
        "deduped_corpus train": train.sha256,
        "perplexity": scored.content_hash,
        f"pruning_thresholds[{domain}]": thresholds.file(cut_file(domain)).sha256,
    }
    step = Step(context, lake, inputs, bytes_in=train.bytes)

    def prune(folder: Path) -> Outcome:
        from yunmin_assets.pruning.removal import prune_documents
        from yunmin_assets.pruning.selection import Cut
        from yunmin_assets.pruning.summary import describe_selection

        documents, scores = split_path(deduped.local, "train"), scored.local / SCORES_FILE
        cut = Cut.model_validate_json((thresholds.local / cut_file(domain)).read_text())
        counts = prune_documents(documents, scores, cut, folder, log=step.log)
        figures, rendered = describe_selection(documents, scores, cut, counts)
        removed = sum(counts.removed.values())
        checks = (
            Check("not_empty", counts.documents > 0, f"{counts.documents:,} of {cut.scored:,} are kept"),
            Check(
                "every_document_accounted_for",
                counts.documents == cut.kept and counts.documents + removed == train.rows,
                f"{counts.documents:,} kept, {removed:,} removed, of {train.rows:,} documents",
            ),
        )
        return Outcome({**figures, **_as_markdown(rendered)}, checks)

    yield from publish(step, prune)


@asset(
    deps=["deduped_corpus", "perplexity", "tokenizer"],
    group_name="pruning",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    pool="gpu",
    code_version="1",
    check_specs=check_specs(
        "pruning_study",
        {"equal_tokens": "Every arm was trained on equally many tokens."},
        warning=EVERY_DOMAIN_PRESENT,
        partitioned=False,
    ),
)
def pruning_study(context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute) -> Events:
    """Which criterion and rate: a small model trained for each on equal tokens, measured on validation documents."""
    deduped, vocabulary = over_all_domains(context, lake, "deduped_corpus"), lake.current("tokenizer")

    def own_documents(domain: str) -> tuple[str, str]:
        found = deduped.snapshots.get(domain)
        return "deduped_corpus train", found.file(TRAIN_FILE).sha256 if found else ""

    scored = over_all_domains(context, lake, "perplexity", made_from=own_documents)
    documents = Upstream(
        "deduped_corpus", {domain: deduped.snapshots[domain] for domain in scored.snapshots}, scored.missing
    )
    config, pruning = settings.pipeline.pruning_study, settings.pipeline.pruning
    inputs = {**scored.hashes(), "tokenizer": vocabulary.content_hash}
    for file in (TRAIN_FILE, VALIDATION_FILE):
        inputs |= {f"{name} {file}": sha256 for name, sha256 in documents.hashes(file).items()}
    options = {
        "pruning_study": config.model_dump(mode="json"),
        "pruning": pruning.model_dump(mode="json", include=OPTIONS_OF_A_STUDY),
        "pack": settings.pipeline.pack.fingerprint_options(),
    }
    step = Step(context, lake, inputs, options, bytes_in=documents.bytes(TRAIN_FILE))

    def compute_study(folder: Path) -> Outcome:
        from yunmin_assets.pruning.study import StudyInputs, run_study
        from yunmin_assets.pruning.study_summary import describe_study

        compute.prepare()
        files = {
            split: {domain: split_path(own.local, split) for domain, own in documents.snapshots.items()}
            for split in ("train", "validation")
        }
        scores = {domain: own.local / SCORES_FILE for domain, own in scored.snapshots.items()}
        sources = StudyInputs(files["train"], scores, files["validation"], vocabulary.local / TOKENIZER)
        layout = settings.pack_config(vocabulary)
        report, costs = run_study(sources, config, pruning, layout, folder, step.workspace(), log=step.log)
        figures, rendered = describe_study(report, costs)
        tokens = [facts.trained_tokens for selection in report.selections for facts in selection.seeds]
        checks = (
            Check("equal_tokens", len(set(tokens)) == 1, f"{len(tokens)} arms, each of {tokens[0]:,} tokens"),
            scored.check(),
        )
        return Outcome({**figures, **_as_markdown(rendered)}, checks, tokens=sum(tokens))

    yield from publish(step, compute_study)


def _as_markdown(rendered: dict[str, str]) -> dict[str, Markdown]:
    return {name: Markdown(text) for name, text in rendered.items()}

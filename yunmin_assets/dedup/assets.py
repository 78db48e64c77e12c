"""signatures, duplicate_clusters and deduped_corpus: near-duplicates out, across all domains."""

from pathlib import Path
from typing import TYPE_CHECKING

from dagster import AssetExecutionContext

from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, asset, check_specs, publish
from resources.settings import Settings
from resources.snapshot import Snapshot
from resources.upstream import EVERY_DOMAIN_PRESENT, over_all_domains, require_made_from
from yunmin_assets.partitions import domain_partitions
from yunmin_assets.snapshot_files import DECISIONS, decisions_file, pairs_file

if TYPE_CHECKING:
    from yunmin_assets.dedup.removal import RemovalCounts

OWNERS = ["team:yunmin-data"]
TRUTH_FILE = "_truth/pairs.parquet"


@asset(
    partitions_def=domain_partitions,
    deps=["clean_corpus"],
    group_name="dedup",
    kinds={"numba", "parquet"},
    owners=OWNERS,
    code_version="2",
    check_specs=check_specs("signatures", {"one_per_document": "Every clean document has a signature."}),
)
def signatures(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """MinHash signatures of a domain, bit-equal to datasketch's, and one sorted key file per band."""
    from yunmin_assets.documents import document_files

    clean, config = lake.current("clean_corpus", context.partition_key), settings.pipeline.dedup
    step = Step(
        context, lake, {"clean_corpus": clean.content_hash}, config.signature_options(), bytes_in=clean.bytes
    )

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.dedup import write_signatures

        sources = document_files(clean.local)
        count = write_signatures(sources, folder, config, workspace=step.workspace(), log=step.log)
        is_complete = Check("one_per_document", count == clean.rows("documents-"), f"{count:,} signatures")
        return Outcome(
            {"documents": count, "permutations": config.num_perm, "bands": config.bands}, (is_complete,)
        )

    yield from publish(step, compute)


@asset(
    deps=["signatures", "clean_corpus"],
    group_name="dedup",
    kinds={"numba", "parquet"},
    owners=OWNERS,
    pool="duplicate_clusters",  # one at a time: the later of two would publish without the other's domain
    code_version="2",
    check_specs=check_specs(
        "duplicate_clusters",
        {"survivors_are_kept": "Every removed document yields to one that stays."},
        warning=EVERY_DOMAIN_PRESENT,
        partitioned=False,
    ),
)
def duplicate_clusters(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """Which document yields to which, over all domains, by exact Jaccard similarity."""
    clean = over_all_domains(context, lake, "clean_corpus")
    cleaned = {domain: snapshot.content_hash for domain, snapshot in clean.snapshots.items()}
    signed = over_all_domains(
        context, lake, "signatures", made_from=lambda domain: ("clean_corpus", cleaned.get(domain))
    )
    config = settings.pipeline.dedup
    inputs = {
        **{f"clean_corpus[{name}]": clean.snapshots[name].content_hash for name in signed.snapshots},
        **signed.hashes(),
    }
    step = Step(context, lake, inputs, config.decision_options(), bytes_in=clean.bytes() + signed.bytes())
    domains = sorted(signed.snapshots)
    cleaned_folders = {name: clean.snapshots[name].local for name in domains}

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.dedup.clusters import decide_over_domains
        from yunmin_assets.dedup.decision_files import read_removed, removed_without_survivor
        from yunmin_assets.dedup.pair_files import write_pairs
        from yunmin_assets.dedup.recall import score_domains
        from yunmin_assets.dedup.summary import describe_clusters

        counts = decide_over_domains(
            cleaned_folders,
            {name: signed.snapshots[name].local for name in domains},
            folder,
            config,
            workspace=step.workspace(),
            previous=_earlier_decisions(step),
            log=step.log,
        )
        write_pairs(folder, cleaned_folders)
        figures, rendered = describe_clusters(
            {name: read_removed(folder, name) for name in domains},
            {name: clean.snapshots[name].rows("documents-") for name in domains},
            counts.text_bytes,
        )
        truth = settings.raw_root() / TRUTH_FILE
        if truth.exists():
            removed_before = [snapshot.local / "removed.parquet" for snapshot in clean.snapshots.values()]
            decided = [folder / decisions_file(name) for name in domains]
            figures |= score_domains(decided, removed_before, truth, config.threshold)
        ran = {
            "documents_new_or_touched": counts.fresh,
            "documents_compared": counts.compared,
            "batches": counts.batches,
        }
        lost = removed_without_survivor(folder, domains)
        return Outcome(
            {**figures, **ran, **{name: Markdown(text) for name, text in rendered.items()}},
            (_survivors_are_kept(lost), signed.check()),
        )

    yield from publish(step, compute)


@asset(
    partitions_def=domain_partitions,
    deps=["clean_corpus", "duplicate_clusters"],
    group_name="dedup",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="2",
    check_specs=check_specs(
        "deduped_corpus",
        {
            "every_document_accounted_for": "Kept and removed documents add up to the clean ones.",
            "train_not_empty": "There is something left to train on.",
            "held_out_not_empty": "Validation and test both hold documents.",
        },
    ),
)
def deduped_corpus(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """The documents of a domain that stay, as train, validation and test; and a log of those that went."""
    from yunmin_assets.documents import document_files

    domain, pipeline = context.partition_key, settings.pipeline
    clean, clusters = lake.current("clean_corpus", domain), lake.current("duplicate_clusters")
    require_made_from(clusters, f"clean_corpus[{domain}]", clean.content_hash)
    decided = clusters.file(decisions_file(domain))
    inputs = {
        "clean_corpus": clean.content_hash,
        f"duplicate_clusters[{domain}]": decided.sha256,
        f"duplicate_clusters[{domain}] pairs": clusters.file(pairs_file(domain)).sha256,
    }
    options = {
        "splits": pipeline.splits.model_dump(mode="json"),
        "boilerplate": pipeline.boilerplate.model_dump(mode="json"),
        "punctuation": pipeline.dedup.punctuation,
        "min_characters": pipeline.corpus.min_characters,
    }
    step = Step(context, lake, inputs, options, bytes_in=clean.bytes + decided.bytes)

    def compute(folder: Path) -> Outcome:
        import pyarrow.parquet as pq

        from yunmin_assets.dedup.boilerplate.repeated_paragraphs import find_boilerplate
        from yunmin_assets.dedup.boilerplate.report import render_boilerplate
        from yunmin_assets.dedup.decision_files import read_removed
        from yunmin_assets.dedup.removal import apply_decisions, survivors
        from yunmin_assets.dedup.summary import MATRIX_COLUMNS, describe_removal

        sources, decisions = document_files(clean.local), clusters.local / decisions_file(domain)
        boilerplate = find_boilerplate(
            lambda: survivors(sources, decisions),
            pipeline.boilerplate,
            punctuation=pipeline.dedup.punctuation,
            workspace=step.workspace(),
            memory_bytes=pipeline.dedup.memory_budget_bytes // 2,
            log=step.log,
        )
        counts = apply_decisions(
            sources,
            decisions,
            pipeline.splits,
            folder,
            boilerplate=boilerplate if pipeline.boilerplate.remove else None,
            min_characters_left=pipeline.corpus.min_characters,
            log=step.log,
        )
        of_all = {
            name: read_removed(clusters.local, name, MATRIX_COLUMNS) for name in _decided_domains(clusters)
        }
        removed = of_all | {domain: read_removed(clusters.local, domain)}
        pairs = pq.read_table(clusters.local / pairs_file(domain))
        figures, rendered = describe_removal(domain, removed, counts, pairs)
        rendered["repeated_paragraphs"] = render_boilerplate(boilerplate.report)
        return Outcome(
            {**figures, **{name: Markdown(text) for name, text in rendered.items()}}, _checks(counts)
        )

    yield from publish(step, compute)


def _earlier_decisions(step: Step) -> Path | None:
    """What the current snapshot decided, if this code made it and it is whole."""
    current = step.lake.find_to_replace(step.asset, step.domain)
    if current is None or current.manifest.code_version != step.code_version:
        return None
    problems = current.verify()
    if problems:
        step.log(f"deciding everything again, because the current snapshot is damaged: {problems[0]}")
        return None
    return current.local


def _decided_domains(clusters: Snapshot) -> list[str]:
    return [Path(file.name).stem for file in clusters.files(DECISIONS)]


def _survivors_are_kept(lost: list[str]) -> Check:
    found = (
        f"{len(lost):,} removed documents yield to one that is not kept" if lost else "every survivor is kept"
    )
    return Check("survivors_are_kept", not lost, f"{found}{': ' + ', '.join(lost[:5]) if lost else ''}")


def _checks(counts: "RemovalCounts") -> tuple[Check, ...]:
    splits = counts.splits
    accounted = splits.total() + counts.removed.total()
    return (
        Check(
            "every_document_accounted_for",
            accounted == counts.documents_in,
            f"{dict(splits)} and removed {dict(counts.removed)} of {counts.documents_in:,} documents",
        ),
        Check("train_not_empty", splits["train"] > 0, f"{splits['train']:,} documents to train on"),
        Check(
            "held_out_not_empty",
            min(splits["validation"], splits["test"]) > 0,
            f"{splits['validation']:,} for validation, {splits['test']:,} for test: "
            "if there are none, raise splits.validation and splits.test or deliver more text",
        ),
    )

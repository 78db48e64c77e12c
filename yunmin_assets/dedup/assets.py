"""signatures, duplicate_clusters and deduped_corpus: near-duplicates out, across all domains."""

from pathlib import Path

from dagster import AssetExecutionContext, asset

from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, check_specs, publish
from resources.settings import Settings
from resources.upstream import EVERY_DOMAIN_PRESENT, over_all_domains, require_made_from
from yunmin_assets.partitions import domain_partitions
from yunmin_assets.snapshot_files import decisions_file

OWNERS = ["team:yunmin-data"]
TRUTH_FILE = "_truth/pairs.parquet"


@asset(
    partitions_def=domain_partitions,
    deps=["clean_corpus"],
    group_name="dedup",
    kinds={"numba", "parquet"},
    owners=OWNERS,
    code_version="1",
    check_specs=check_specs("signatures", {"one_per_document": "Every clean document has a signature."}),
)
def signatures(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """MinHash signatures of a domain, bit-equal to datasketch's, and one sorted key file per band."""
    from yunmin_assets.documents import document_files, read_documents

    clean, config = lake.current("clean_corpus", context.partition_key), settings.pipeline.dedup
    signing = config.model_dump(mode="json", include={"ngram", "bands", "rows", "seed", "punctuation"})
    step = Step(context, lake, {"clean_corpus": clean.content_hash}, signing, bytes_in=clean.bytes)

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.dedup import write_signatures

        documents = read_documents(document_files(clean.local), columns=["id", "text"])
        count = write_signatures(documents, folder, config, log=step.log)
        is_complete = Check("one_per_document", count == documents.num_rows, f"{count:,} signatures")
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
    code_version="1",
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
    step = Step(
        context, lake, inputs, config.model_dump(mode="json"), bytes_in=clean.bytes() + signed.bytes()
    )

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.dedup.clusters import decide_over_domains, recall_of
        from yunmin_assets.dedup.summary import describe_clusters

        decisions = decide_over_domains(
            {name: clean.snapshots[name].local for name in signed.snapshots},
            {name: snapshot.local for name, snapshot in signed.snapshots.items()},
            folder / "decisions",
            config,
            log=step.log,
        )
        kept = sum(table["kept"].to_pylist().count(True) for table in decisions.values())
        documents = sum(table.num_rows for table in decisions.values())
        figures: dict[str, int | float] = {"documents": documents, "kept": kept, "removed": documents - kept}
        truth = settings.raw_root() / TRUTH_FILE
        if truth.exists():
            removed_before = {
                name: snapshot.local / "removed.parquet" for name, snapshot in clean.snapshots.items()
            }
            figures |= recall_of(decisions, removed_before, truth, config.threshold)
        rendered = {name: Markdown(text) for name, text in describe_clusters(decisions).items()}
        return Outcome({**figures, **rendered}, (_survivors_are_kept(decisions), signed.check()))

    yield from publish(step, compute)


@asset(
    partitions_def=domain_partitions,
    deps=["clean_corpus", "duplicate_clusters"],
    group_name="dedup",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="1",
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
    domain, splits = context.partition_key, settings.pipeline.splits
    clean, clusters = lake.current("clean_corpus", domain), lake.current("duplicate_clusters")
    require_made_from(clusters, f"clean_corpus[{domain}]", clean.content_hash)
    decided = clusters.file(decisions_file(domain))
    inputs = {"clean_corpus": clean.content_hash, f"duplicate_clusters[{domain}]": decided.sha256}
    step = Step(context, lake, inputs, splits.model_dump(mode="json"), bytes_in=clean.bytes + decided.bytes)

    def compute(folder: Path) -> Outcome:
        import pyarrow.parquet as pq

        from yunmin_assets.dedup.removal import apply_decisions
        from yunmin_assets.dedup.summary import describe_removal
        from yunmin_assets.documents import document_files, read_documents

        documents = read_documents(document_files(clean.local))
        decisions = pq.read_table(clusters.local / decisions_file(domain))
        counts = apply_decisions(documents, decisions, splits, folder)
        figures, rendered = describe_removal(documents, decisions, counts)
        checks = (
            Check(
                "every_document_accounted_for",
                sum(counts.values()) == documents.num_rows,
                f"{counts} of {documents.num_rows:,} documents",
            ),
            Check("train_not_empty", counts["train"] > 0, f"{counts['train']:,} documents to train on"),
            Check(
                "held_out_not_empty",
                min(counts["validation"], counts["test"]) > 0,
                f"{counts['validation']:,} for validation, {counts['test']:,} for test: "
                "if there are none, raise splits.validation and splits.test or deliver more text",
            ),
        )
        return Outcome({**figures, **{name: Markdown(text) for name, text in rendered.items()}}, checks)

    yield from publish(step, compute)


def _survivors_are_kept(decisions: dict) -> Check:
    from yunmin_assets.dedup.clusters import removed_without_survivor

    lost = removed_without_survivor(decisions)
    found = (
        f"{len(lost):,} removed documents yield to one that is not kept" if lost else "every survivor is kept"
    )
    return Check("survivors_are_kept", not lost, f"{found}{': ' + ', '.join(lost[:5]) if lost else ''}")

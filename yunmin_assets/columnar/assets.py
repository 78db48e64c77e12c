"""tokenizer, parquet_shards, loading_benchmark: text becomes tokens that training reads straight from Parquet."""

import dataclasses
from pathlib import Path

from dagster import AssetExecutionContext

from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, asset, check_specs, publish
from resources.settings import Settings
from resources.upstream import EVERY_DOMAIN_PRESENT, over_all_domains, require_made_from
from yunmin_assets.documents import iterate_texts, split_path
from yunmin_assets.files import folder_hash
from yunmin_assets.partitions import domain_partitions
from yunmin_assets.snapshot_files import LOADING_FILE, TOKENIZER, TRAIN_FILE, VALIDATION_FILE

OWNERS = ["team:yunmin-data"]


@asset(
    deps=["deduped_corpus"],
    group_name="columnar",
    kinds={"huggingface"},
    owners=OWNERS,
    code_version="2",
    check_specs=check_specs(
        "tokenizer",
        {"round_trip": "Decoding what was encoded gives back the text."},
        warning=EVERY_DOMAIN_PRESENT,
        partitioned=False,
    ),
)
def tokenizer(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """A byte-level BPE trained on the training documents of all domains, or one that is taken over."""
    deduped, config = over_all_domains(context, lake, "deduped_corpus"), settings.pipeline.tokenizer
    given = lake.fetch(config.path) if config.path else None
    inputs = {"tokenizer.path": folder_hash(given)} if given else deduped.hashes(TRAIN_FILE)
    step = Step(
        context,
        lake,
        inputs,
        config.model_dump(mode="json"),
        bytes_in=0 if given else deduped.bytes(TRAIN_FILE),
    )
    files = [split_path(snapshot.local, "train") for snapshot in deduped.snapshots.values()]

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.columnar import train_tokenizer
        from yunmin_assets.columnar.summary import describe_tokenization

        local = config.model_copy(update={"path": given})
        summary = train_tokenizer(iterate_texts(files), local, folder / TOKENIZER, step.log)
        figures, is_exact, samples = describe_tokenization(folder / TOKENIZER, files)
        checks = (
            Check("round_trip", is_exact, "text → tokens → text on a sample of every domain"),
            deduped.check(),
        )
        facts = dataclasses.asdict(summary)
        return Outcome({**facts, **figures, "samples": Markdown(samples)}, checks)

    yield from publish(step, compute)


@asset(
    partitions_def=domain_partitions,
    deps=["pruned_corpus", "deduped_corpus", "tokenizer"],
    group_name="columnar",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="3",
    check_specs=check_specs(
        "parquet_shards",
        {"every_token_packed": "The packed rows, read back, hold every token of the documents."},
    ),
)
def parquet_shards(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """Two Parquet products of a domain: its documents, and packed token rows for training and validation."""
    domain = context.partition_key
    pruned, deduped = lake.current("pruned_corpus", domain), lake.current("deduped_corpus", domain)
    # Documents that were training ones when they were pruned may be held out by now.
    require_made_from(pruned, "deduped_corpus train", deduped.file(TRAIN_FILE).sha256)
    vocabulary = lake.current("tokenizer")
    train, held_out = pruned.file(TRAIN_FILE), deduped.file(VALIDATION_FILE)
    for split, file, option in (
        ("training", train, "pruning.selection_rate"),
        ("validation", held_out, "splits.validation"),
    ):
        if not file.rows:
            raise ValueError(f"{domain} has no {split} documents: raise {option} or deliver more text")
    step = Step(
        context,
        lake,
        {
            "pruned_corpus": pruned.content_hash,
            "deduped_corpus validation": held_out.sha256,
            "tokenizer": vocabulary.content_hash,
        },
        settings.pipeline.pack.fingerprint_options(),
        bytes_in=train.bytes + held_out.bytes,
    )

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.columnar.shards import write_domain_shards
        from yunmin_assets.columnar.summary import describe_shards

        written = write_domain_shards(
            {
                "train": split_path(pruned.local, "train"),
                "validation": split_path(deduped.local, "validation"),
            },
            vocabulary.local / TOKENIZER,
            folder,
            settings.pack_config(vocabulary),
            domain=domain,
            workspace=step.workspace(),
            log=step.log,
        )
        if written.damage:  # no failed check, which nobody would try again
            raise RuntimeError(
                f"{', '.join(written.damage)} damaged in {step.workspace()} and removed there: run it again"
            )
        figures, lengths = describe_shards(written)
        found = f"{figures['train_tokens']:,} tokens in {figures['train_rows']:,} rows, read back"
        is_complete = Check("every_token_packed", written.every_token_packed, found)
        return Outcome(
            {**figures, "tokens_per_document": Markdown(lengths)},
            (is_complete,),
            tokens=sum(packed.tokens for packed in written.packed.values()),
        )

    yield from publish(step, compute)


@asset(
    deps=["parquet_shards"],
    group_name="columnar",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="2",
    check_specs=check_specs(
        "loading_benchmark",
        {"same_content": "All readers of text, two at least, found the same; so did all readers of rows."},
        warning={
            "every_reader_measured": "No reader failed or took too long.",
            "one_layout": "All domains are packed in one layout; one that is not is left out.",
            **EVERY_DOMAIN_PRESENT,
        },
        partitioned=False,
    ),
)
def loading_benchmark(context: AssetExecutionContext, lake: Lake) -> Events:
    """JSONL against Parquet on a sample of all domains: CPU-seconds and memory, text and training rows."""
    from yunmin_assets.columnar.loading_sample import SAMPLED_FILES, of_other_layout

    shards = over_all_domains(context, lake, "parquet_shards")
    left_out = of_other_layout({domain: snapshot.folder for domain, snapshot in shards.snapshots.items()})
    measured = {domain: item for domain, item in shards.snapshots.items() if domain not in left_out}
    step = Step(
        context,
        lake,
        {f"parquet_shards[{domain}]": snapshot.content_hash for domain, snapshot in measured.items()},
        {"left_out": left_out},
        bytes_in=sum(snapshot.file(name).bytes for snapshot in measured.values() for name in SAMPLED_FILES),
    )

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.columnar.loading_comparison import compare_loading, describe_loading

        comparison = compare_loading({name: item.folder for name, item in measured.items()}, step.log)
        (folder / LOADING_FILE).write_text(comparison.model_dump_json(indent=1) + "\n", encoding="utf-8")
        figures, table = describe_loading(comparison)
        failures = "; ".join(f"{reader}: {reason}" for reader, reason in comparison.failures.items())
        problems = comparison.disagreements()
        sampled = f"{comparison.documents:,} documents, {comparison.rows:,} rows"
        checks = (
            Check("same_content", not problems, "; ".join(problems) or sampled),
            Check(
                "every_reader_measured",
                not failures,
                failures or f"{len(comparison.readers)} readers",
                blocking=False,
            ),
            Check(
                "one_layout",
                not left_out,
                f"materialize parquet_shards again for: {', '.join(left_out)}" if left_out else "all domains",
                blocking=False,
            ),
            shards.check(),
        )
        return Outcome({**figures, "readers": Markdown(table)}, checks, tokens=comparison.tokens)

    yield from publish(step, compute)

"""tokenizer, parquet_shards, loading_benchmark: text becomes tokens that training reads straight from Parquet."""

import dataclasses
from pathlib import Path

from dagster import AssetExecutionContext, asset

from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, check_specs, publish
from resources.settings import Settings
from resources.upstream import EVERY_DOMAIN_PRESENT, over_all_domains
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
    code_version="1",
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
    is_trained = config.path is None
    inputs = (
        deduped.hashes(TRAIN_FILE) if config.path is None else {"tokenizer.path": folder_hash(config.path)}
    )
    step = Step(
        context,
        lake,
        inputs,
        config.model_dump(mode="json"),
        bytes_in=deduped.bytes(TRAIN_FILE) if is_trained else 0,
    )
    files = [split_path(snapshot.local, "train") for snapshot in deduped.snapshots.values()]

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.columnar import train_tokenizer
        from yunmin_assets.columnar.summary import describe_tokenization

        summary = train_tokenizer(iterate_texts(files), config, folder / TOKENIZER, step.log)
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
    code_version="2",
    check_specs=check_specs(
        "parquet_shards",
        {"every_token_packed": "The packed rows, read back, hold every token of the documents."},
    ),
)
def parquet_shards(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """Two Parquet products of a domain: its documents, and packed token rows for training and validation."""
    domain = context.partition_key
    pruned, deduped = lake.current("pruned_corpus", domain), lake.current("deduped_corpus", domain)
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
        settings.pipeline.pack.model_dump(exclude={"shuffle_memory_mb"}),
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
        figures, lengths = describe_shards(written)
        is_complete = Check(
            "every_token_packed",
            written.every_token_packed,
            f"{figures['train_tokens']:,} tokens in {figures['train_rows']:,} rows, read back",
        )
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
    code_version="1",
    check_specs=check_specs(
        "loading_benchmark",
        {"same_content": "Every reader of text, and every reader of rows, found the same."},
        warning={"every_reader_measured": "No reader failed or took too long.", **EVERY_DOMAIN_PRESENT},
        partitioned=False,
    ),
)
def loading_benchmark(context: AssetExecutionContext, lake: Lake) -> Events:
    """JSONL against Parquet on a sample of all domains: CPU-seconds and memory, text and training rows."""
    shards = over_all_domains(context, lake, "parquet_shards")
    step = Step(context, lake, shards.hashes(), bytes_in=shards.bytes())

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.columnar.loading_comparison import compare_loading, describe_loading

        folders = {domain: snapshot.local for domain, snapshot in shards.snapshots.items()}
        comparison = compare_loading(folders, step.log)
        (folder / LOADING_FILE).write_text(comparison.model_dump_json(indent=1) + "\n", encoding="utf-8")
        figures, table = describe_loading(comparison)
        failures = "; ".join(f"{reader}: {reason}" for reader, reason in comparison.failures.items())
        checks = (
            Check(
                "same_content",
                comparison.found_the_same,
                f"{comparison.documents:,} documents, {comparison.rows:,} rows",
            ),
            Check(
                "every_reader_measured",
                not failures,
                failures or f"{len(comparison.readers)} readers",
                blocking=False,
            ),
            shards.check(),
        )
        return Outcome({**figures, "readers": Markdown(table)}, checks, tokens=comparison.tokens)

    yield from publish(step, compute)

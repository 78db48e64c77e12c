"""tokenizer and parquet_shards: text becomes tokens that training reads straight from Parquet."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, asset

from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, check_specs, publish
from resources.settings import Settings
from resources.upstream import EVERY_DOMAIN_PRESENT, over_all_domains
from yunmin_assets.documents import iterate_texts, read_documents, split_path
from yunmin_assets.files import folder_hash
from yunmin_assets.partitions import domain_partitions
from yunmin_assets.snapshot_files import TOKENIZER, TRAIN_FILE, VALIDATION_FILE

if TYPE_CHECKING:
    from yunmin_assets.columnar.shards import DomainShards

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
    code_version="1",
    check_specs=check_specs(
        "parquet_shards",
        {
            "every_token_packed": "The packed rows hold every token of the documents, and every file reads back."
        },
    ),
)
def parquet_shards(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """Two Parquet products of a domain: its documents, and packed token rows for training and validation."""
    domain = context.partition_key
    pruned, deduped = lake.current("pruned_corpus", domain), lake.current("deduped_corpus", domain)
    vocabulary = lake.current("tokenizer")
    held_out = deduped.file(VALIDATION_FILE)
    inputs = {
        "pruned_corpus": pruned.content_hash,
        "deduped_corpus validation": held_out.sha256,
        "tokenizer": vocabulary.content_hash,
    }
    if not held_out.rows:
        raise ValueError(
            f"{domain} has no validation documents: raise splits.validation or deliver more text"
        )
    step = Step(
        context, lake, inputs, settings.pipeline.pack.model_dump(), bytes_in=pruned.bytes + held_out.bytes
    )

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.columnar.shards import write_domain_shards

        written = write_domain_shards(
            {
                "train": read_documents([split_path(pruned.local, "train")]),
                "validation": read_documents([split_path(deduped.local, "validation")]),
            },
            vocabulary.local / TOKENIZER,
            folder,
            settings.pack_config(vocabulary),
            domain=domain,
            log=step.log,
        )
        return _describe_shards(written)

    yield from publish(step, compute)


def _describe_shards(written: "DomainShards") -> Outcome:
    train, validation = written.packed["train"], written.packed["validation"]
    packed_bytes = sum(file.bytes for file in train.files)
    figures = {
        "train_tokens": train.tokens,
        "train_documents": train.documents,
        "train_rows": train.rows,
        "validation_tokens": validation.tokens,
        "validation_documents": validation.documents,
        "padding_tokens": train.padding_tokens,
        "tokens_per_row": train.seq_len,
        "documents_bytes": written.document_bytes,
        "documents_bytes_per_text_byte": written.document_bytes / max(written.text_bytes, 1),
        "packed_bytes": packed_bytes,
        "packed_bytes_per_token": packed_bytes / max(train.tokens, 1),
    }
    is_complete = Check(
        "every_token_packed", written.every_token_packed, f"{train.tokens:,} tokens in {train.rows:,} rows"
    )
    return Outcome(figures, (is_complete,), tokens=train.tokens)

"""raw_corpus and clean_corpus: what was delivered, and the documents in it."""

import dataclasses
import json
from pathlib import Path

from dagster import AssetExecutionContext

from resources.lake import Lake, check_domain
from resources.publishing import Check, Events, Markdown, Outcome, Step, asset, check_specs, publish
from resources.settings import Settings
from yunmin_assets.corpus.listing import Listing, RawObjectError, list_domain
from yunmin_assets.corpus.raw import RawObject, content_of, inspect_object
from yunmin_assets.partitions import domain_partitions

OBJECTS_FILE = "objects.json"
SHOWN_ROWS = 20


@asset(
    partitions_def=domain_partitions,
    group_name="corpus",
    kinds={"jsonl"},
    owners=["team:yunmin-data"],
    code_version="1",
    check_specs=check_specs(
        "raw_corpus",
        {"not_empty": "At least one line was delivered."},
        warning={"no_empty_object": "Every object holds at least one line."},
    ),
)
def raw_corpus(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """The raw objects of a domain as they are now: name, URI, bytes, lines, SHA-256. Nothing is copied."""
    root, domain = settings.raw_root(), check_domain(context.partition_key)
    listing = list_domain(root, domain)
    if not listing.objects:
        raise RawObjectError(
            f"no raw objects for domain {domain!r}: drop {root}/{domain}.jsonl or {root}/{domain}/*.jsonl"
        )
    objects = [inspect_object(root, item) for item in listing.objects]
    inputs = {"raw objects": content_of([(item.name, item.sha256) for item in objects])}
    step = Step(context, lake, inputs, bytes_in=sum(item.bytes for item in objects))

    def compute(folder: Path) -> Outcome:
        listed = [dataclasses.asdict(item) for item in objects]
        (folder / OBJECTS_FILE).write_text(json.dumps(listed, ensure_ascii=False, indent=1), encoding="utf-8")
        return _describe_raw(objects, listing)

    yield from publish(step, compute)


@asset(
    partitions_def=domain_partitions,
    deps=["raw_corpus"],
    group_name="corpus",
    kinds={"parquet"},
    owners=["team:yunmin-data"],
    code_version="1",
    check_specs=check_specs(
        "clean_corpus",
        {
            "schema": "Every document has an id, a text and a domain.",
            "not_empty": "At least one document is left.",
            "rejects_within_limit": "No more lines were unreadable than the configuration allows.",
        },
    ),
)
def clean_corpus(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """Documents of a domain: NFC, no control characters, no short texts, no exact duplicates.

    Lines that hold no document are kept in `rejects.parquet` with file, line number and reason.
    """
    from yunmin_assets.corpus.clean import clean_domain
    from yunmin_assets.documents import DOCUMENT_SCHEMA

    raw, config = lake.current("raw_corpus", context.partition_key), settings.pipeline.corpus
    objects = [
        RawObject(**item) for item in json.loads((raw.local / OBJECTS_FILE).read_text(encoding="utf-8"))
    ]
    step = Step(
        context,
        lake,
        {"raw_corpus": raw.content_hash},
        config.model_dump(mode="json"),
        bytes_in=sum(item.bytes for item in objects),
    )

    def compute(folder: Path) -> Outcome:
        import pyarrow.parquet as pq

        from yunmin_assets.corpus.summary import describe_cleaning

        summary = clean_domain(
            settings.raw_root(), context.partition_key, objects, folder, config, log=step.log
        )
        schemas = [pq.read_schema(path) for path in sorted(folder.glob("documents-*.parquet"))]
        checks = (
            Check("schema", all(schema.equals(DOCUMENT_SCHEMA) for schema in schemas), "columns as declared"),
            Check(
                "not_empty",
                summary.documents > 0,
                f"{summary.documents:,} of {summary.lines:,} lines are documents",
            ),
            Check(
                "rejects_within_limit",
                summary.reject_share <= config.max_reject_share,
                _describe_rejects(summary.reject_share, config.max_reject_share, summary.first_rejects),
            ),
        )
        plain, rendered = describe_cleaning(folder, summary)
        return Outcome(plain | {name: Markdown(text) for name, text in rendered.items()}, checks)

    yield from publish(step, compute)


def _describe_raw(objects: list[RawObject], listing: Listing) -> Outcome:
    from yunmin_assets.plots import markdown_table

    empty = [item.name for item in objects if item.lines == 0]
    rows = [
        (item.name, item.bytes, item.lines, item.sha256[:12], item.modified) for item in objects[:SHOWN_ROWS]
    ]
    table = markdown_table(["object", "bytes", "lines", "SHA-256", "modified"], rows)
    summary = {
        "objects": len(objects),
        "raw_bytes": sum(item.bytes for item in objects),
        "lines": sum(item.lines for item in objects),
        "files_not_read": ", ".join(listing.unread[:SHOWN_ROWS]) or "none",
        "listing": listing.digest,
        "objects_seen": Markdown(table),
    }
    lines = sum(item.lines for item in objects)
    checks = (
        Check("not_empty", lines > 0, f"{lines:,} lines in {len(objects):,} objects"),
        Check(
            "no_empty_object",
            not empty,
            f"empty: {', '.join(empty[:5])}" if empty else "none is empty",
            blocking=False,
        ),
    )
    return Outcome(summary, checks)


def _describe_rejects(share: float, limit: float, first: list[str]) -> str:
    text = f"{share:.2%} of the lines were rejected, {limit:.2%} are allowed"
    return f"{text}; first: {'; '.join(first[:3])}" if first else text

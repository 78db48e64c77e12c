"""raw_data_sensor: drop a file or an object, and its domain's chain runs once. And the other sensors, in one list."""

import logging
import time

from dagster import (
    AssetKey,
    DefaultSensorStatus,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)
from pydantic import ValidationError
from upath import UPath

from resources.lake import Lake
from resources.settings import Settings
from resources.snapshot import LakeError, Snapshot, is_local
from yunmin_assets.automation.conditions import automation_sensor
from yunmin_assets.automation.failure_alerts import notifier_from_environment, run_failure_sensor_with
from yunmin_assets.automation.jobs import GLOBAL_MODELS, INGEST, per_domain_chain
from yunmin_assets.automation.missed_retries import missed_retries_sensor_with
from yunmin_assets.automation.raw_changes import Changes, Seen, find_changes
from yunmin_assets.corpus.listing import RawObjectError, list_domain
from yunmin_assets.corpus.raw import content_of
from yunmin_assets.files import sha256_of
from yunmin_assets.partitions import domain_partitions

MAX_BYTES_COMPARED = 64_000_000
NAMES_SHOWN = 5


@sensor(
    job=per_domain_chain,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Watches the raw folder or S3 prefix: adds new domains, requests the chain of each that changed.",
)
def raw_data_sensor(context: SensorEvaluationContext, lake: Lake, settings: Settings) -> SensorResult:
    """Request one run per domain with new content; what is already materialized requests nothing.

    Until the tokenizer, the reference model and the base model exist, a request covers the part of the chain
    that needs none of them. `whole_pipeline` makes them, and the first tick that finds them requests the whole
    chain of each of these domains; it finds nothing to do where `whole_pipeline` did it. The cursor is stored
    with the requests after the tick, so a tick that is killed is done again by the next one, and the run keys
    are the same.
    """
    root = settings.raw_root()
    settle_seconds = settings.pipeline.raw_settle_seconds
    try:
        changes = find_changes(root, _seen(context), now=time.time(), settle_seconds=settle_seconds)
    except RawObjectError as error:
        return SensorResult(skip_reason=str(error))
    catalog = _Catalog(lake, context.log)
    published = [
        name for name, digest in changes.changed.items() if _is_published(catalog, root, name, digest)
    ]
    requests = _requests(catalog, changes, [name for name in changes.changed if name not in published])
    known = context.instance.get_dynamic_partitions(str(domain_partitions.name))
    new = [domain for domain in changes.settled if domain not in known]
    reason = _reason(changes, published)
    if changes.refused or changes.gone:
        context.log.warning(reason)
    return SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[domain_partitions.build_add_request(new)] if new else [],
        cursor=changes.seen.model_dump_json(),
        skip_reason=None if requests else reason,
    )


def _seen(context: SensorEvaluationContext) -> Seen:
    """The cursor; one that cannot be read counts as none, so that every domain is looked at anew."""
    try:
        return Seen.model_validate_json(context.cursor) if context.cursor else Seen()
    except ValidationError as error:
        context.log.warning(f"the cursor cannot be read and is begun anew: {error}")
        return Seen()


class _Catalog:
    """What the lake holds; what is broken counts as not published, with a warning that names the cure."""

    def __init__(self, lake: Lake, log: logging.Logger) -> None:
        self._lake, self._log = lake, log

    def find(self, asset: str, domain: str | None = None) -> Snapshot | None:
        try:
            return self._lake.find(asset, domain)
        except LakeError as error:
            self._log.warning(error.description)
            return None


def _is_published(catalog: _Catalog, root: UPath, domain: str, digest: str) -> bool:
    """Whether `raw_corpus` was materialized from what lies there now, by hand or by an earlier request."""
    snapshot = catalog.find("raw_corpus", domain)
    if snapshot is None:
        return False
    metadata = snapshot.manifest.summary["metadata"]
    if metadata.get("listing") == digest:
        return True
    if not is_local(root):
        return False  # an ETag stands for the content
    objects = list_domain(root, domain).objects
    size = sum(item.bytes for item in objects)
    if size != metadata["raw_bytes"] or size > MAX_BYTES_COMPARED:
        return False
    content = content_of([(item.name, sha256_of(root / item.name)) for item in objects])
    return content == snapshot.manifest.inputs["raw objects"]


def _requests(catalog: _Catalog, changes: Changes, domains: list[str]) -> list[RunRequest]:
    """A request for each of these domains and, once there are models, for those at rest that waited for them."""
    seen = changes.seen
    if not changes.changed and not seen.ingested_only:
        return []
    has_models = all(catalog.find(name) for name in GLOBAL_MODELS)
    if has_models:
        domains = sorted({*domains, *seen.ingested_only}.difference(seen.waiting))
        seen.ingested_only = [name for name in seen.ingested_only if name in seen.waiting]
    else:
        seen.ingested_only = sorted({*seen.ingested_only, *changes.changed})
    return [
        RunRequest(
            # The number makes a later return to an older content a new request; the cursor keeps it from repeating.
            run_key=f"{domain}:{seen.digests[domain]}:{seen.number}",
            partition_key=domain,
            asset_selection=None if has_models else [AssetKey(name) for name in INGEST],
        )
        for domain in domains
    ]


def _reason(changes: Changes, published: list[str]) -> str:
    """What this tick saw, for the list of ticks in the UI."""
    domains = len(changes.settled) + len(changes.unsettled)
    reasons = [f"nothing new in {domains} domains, {changes.objects:,} objects listed"]
    if not changes.is_complete:
        reasons.append(f"the next tick goes on behind {changes.seen.listing.after}")
    for what, names in (
        ("already materialized", published),
        ("not yet at rest", changes.unsettled),
        ("no object left of", changes.gone),
    ):
        if names:
            reasons.append(f"{what}: {_shortened(names, ', ')}")
    if changes.refused:
        reasons.append(_shortened(list(changes.refused.values()), "; "))
    return "; ".join(reasons)


def _shortened(texts: list[str], separator: str) -> str:
    more = len(texts) - NAMES_SHOWN
    return separator.join(texts[:NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


sensors = [
    raw_data_sensor,
    automation_sensor,
    run_failure_sensor_with(notifier_from_environment()),
    missed_retries_sensor_with(notifier_from_environment()),
]

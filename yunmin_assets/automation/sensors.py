"""raw_folder_sensor: drop a file, and its domain's chain runs once."""

import time

from dagster import (
    AssetKey,
    DefaultSensorStatus,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)

from resources.lake import Lake, check_domain
from resources.settings import Settings
from yunmin_assets.automation.jobs import GLOBAL_MODELS, INGEST, per_domain_chain
from yunmin_assets.automation.raw_changes import Changes, Seen, find_changes
from yunmin_assets.corpus.raw import RawObjectError
from yunmin_assets.partitions import domain_partitions


@sensor(
    job=per_domain_chain,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Watches the raw folder: adds new domains, requests the chain of each that changed.",
)
def raw_folder_sensor(context: SensorEvaluationContext, lake: Lake, settings: Settings) -> SensorResult:
    """Request one run per domain with new content; a file dropped again unchanged requests nothing.

    Until the tokenizer, the reference model and the base model exist, a request covers the part of the chain
    that needs none of them; `whole_pipeline` makes them.
    """
    try:
        seen = Seen.model_validate_json(context.cursor) if context.cursor else Seen()
        changes = find_changes(settings.raw_root(), seen, now=time.time())
    except RawObjectError as error:
        return SensorResult(skip_reason=str(error))
    refused = {domain: reason for domain in changes.seen.contents if (reason := _why_refused(domain))}
    changed = {domain: content for domain, content in changes.changed.items() if domain not in refused}
    requested = {
        domain: content for domain, content in changed.items() if not _is_published(lake, domain, content)
    }
    known = context.instance.get_dynamic_partitions("domain")
    new = sorted(set(changes.seen.contents) - set(refused) - set(known))
    for reason in refused.values():
        context.log.warning(reason)
    return SensorResult(
        run_requests=[_request(lake, domain, content) for domain, content in requested.items()],
        dynamic_partitions_requests=[domain_partitions.build_add_request(new)] if new else [],
        cursor=changes.seen.model_dump_json(),
        skip_reason=None if requested else _reason(changes, list(refused.values())),
    )


def _why_refused(domain: str) -> str | None:
    try:
        check_domain(domain)
    except ValueError as error:
        return str(error)
    return None


def _is_published(lake: Lake, domain: str, content: str) -> bool:
    snapshot = lake.find("raw_corpus", domain)
    return snapshot is not None and snapshot.manifest.inputs.get("raw objects") == content


def _request(lake: Lake, domain: str, content: str) -> RunRequest:
    has_models = all(lake.find(name) for name in GLOBAL_MODELS)
    return RunRequest(
        # The time makes a later return to an older content a new request; the cursor keeps it from repeating.
        run_key=f"{domain}:{content}:{time.time():.0f}",
        partition_key=domain,
        asset_selection=None if has_models else [AssetKey(name) for name in INGEST],
    )


def _reason(changes: Changes, invalid: list[str]) -> str:
    reasons = [f"nothing new in {changes.domains} domains"]
    if changes.unsettled:
        reasons.append(f"still being written: {', '.join(changes.unsettled)}")
    return "; ".join(reasons + invalid)


sensors = [raw_folder_sensor]

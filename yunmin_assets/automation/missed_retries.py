"""A failed run that Dagster meant to start again, and forgot: Dagster is reminded, or a person is told.

Dagster's daemon reads in the log that a run failed, and then looks at the run. The process of the run writes the log
first and the run's state afterwards; a daemon that looks in between takes the run for one that is at work, and never
looks again (https://github.com/dagster-io/dagster/issues/33741 counts two such runs in a thousand; Dagster 1.13.27
still does it). As the run is marked for a retry, no alert is sent either, and a backfill of assets waits for it
for ever. Another entry of the failure in the log makes the daemon look again.
"""

import time
from datetime import UTC, datetime, timedelta

from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.tags import WILL_RETRY_TAG

from yunmin_assets.automation.failure_alerts import FailedRun, Notifier

PATIENCE_SECONDS = 15.0
"""How long a retry may take to appear; the daemon looks every 5 seconds."""
LOOKS_BACK = timedelta(days=1)
REMINDERS = 3


def runs_not_started_again(instance: DagsterInstance, now: float) -> list[DagsterRun]:
    """Runs that failed within the last day, are to be retried, and have not been.

    Args:
        instance: the history.
        now: seconds since 1970; runs that ended less than `PATIENCE_SECONDS` before are given time.
    """
    failed = RunsFilter(
        statuses=[DagsterRunStatus.FAILURE],
        tags={WILL_RETRY_TAG: "true"},
        updated_after=datetime.fromtimestamp(now, UTC) - LOOKS_BACK,
    )
    return [
        record.dagster_run
        for record in instance.get_run_records(failed)
        if record.dagster_run.is_complete_and_waiting_to_retry
        and (record.end_time or 0.0) <= now - PATIENCE_SECONDS
    ]


def missed_retries_sensor_with(notifier: Notifier) -> SensorDefinition:
    """The sensor that reminds Dagster of forgotten retries, and tells `notifier` of those that it still refuses."""

    @sensor(
        name="missed_retries",
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=10,
        description="Looks for failed runs that Dagster meant to start again and did not.",
    )
    def missed_retries(context: SensorEvaluationContext) -> SkipReason:
        said = []
        for run in runs_not_started_again(context.instance, time.time()):
            said.append(_remind(context.instance, run) or _give_up(context.instance, run, notifier))
            context.log.warning(said[-1])
        return SkipReason("; ".join(said) or "no failed run waits for its retry")

    return missed_retries


def _remind(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """Enter the failure once more; None if Dagster would not retry the run, or did not after `REMINDERS` of them."""
    failures = instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
    if len(failures) > REMINDERS or _its_backfill_is_over(instance, run):
        return None
    instance.report_run_failed(run, "It was to be retried, and was not. This entry reminds Dagster of it.")
    return f"run {run.run_id} was not retried: reminded"


def _its_backfill_is_over(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Dagster retries no run of a backfill that ended."""
    backfill_id = run.tags.get("dagster/backfill")
    backfill = instance.get_backfill(backfill_id) if backfill_id else None
    return backfill_id is not None and (backfill is None or backfill.status in BULK_ACTION_TERMINAL_STATUSES)


def _give_up(instance: DagsterInstance, run: DagsterRun, notifier: Notifier) -> str:
    """Tell somebody, and make the run one that is not to be retried: a backfill need not wait for it."""
    why = (
        "its backfill is over"
        if _its_backfill_is_over(instance, run)
        else f"{REMINDERS} reminders were in vain"
    )
    failed = FailedRun(
        run_id=run.run_id,
        job=run.job_name,
        domain=run.tags.get("dagster/partition"),
        failed_steps=(),
        error=f"Dagster does not retry it ({why}). Launch it again: what it finished is not repeated.",
    )
    notifier.notify(failed)
    instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false"})
    return failed.text

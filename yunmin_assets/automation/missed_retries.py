"""A failed run that Dagster meant to start again, and forgot: Dagster is reminded, or a person is told.

Dagster's daemon reads in the log that a run failed, and then looks at the run. The process of the run writes the log
first and the run's state afterwards; a daemon that looks in between takes the run for one that is at work, and never
looks again (https://github.com/dagster-io/dagster/issues/33741 counts two missed retries in a thousand, not all of
them for this reason; Dagster 1.13.27 still does it). As the run is marked for a retry, no alert is sent either, and a
backfill of assets waits for it for ever. Another entry of the failure in the log makes the daemon look again.
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

from yunmin_assets.automation.failure_alerts import REPORTED_TAG, FailedRun, Notifier, NotifierError

PATIENCE_SECONDS = 15.0
"""How long a retry may take to appear; the daemon looks every 5 seconds."""
LOOKS_BACK = timedelta(days=1)
"""Runs that failed before are left as they are."""
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
        instance = context.instance
        missed = [(run, _refusal(instance, run)) for run in runs_not_started_again(instance, time.time())]
        said = [_remind(instance, run) for run, refusal in missed if refusal is None]
        given_up, undelivered = list[str](), list[str]()
        for run, refusal in missed:
            if refusal is not None:
                try:
                    given_up.append(_give_up(instance, run, refusal, notifier))
                except NotifierError as error:
                    # The next tick tells of this run; the others must not wait for it.
                    undelivered.append(str(error))
        for line in [*said, *given_up]:
            context.log.warning(line)
        if undelivered:
            raise NotifierError("; ".join(undelivered))
        return SkipReason("; ".join([*said, *given_up]) or "no failed run waits for its retry")

    return missed_retries


def _refusal(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """Why another reminder would do nothing, if so."""
    backfill_id = run.tags.get("dagster/backfill")
    backfill = instance.get_backfill(backfill_id) if backfill_id else None
    if backfill_id and (backfill is None or backfill.status in BULK_ACTION_TERMINAL_STATUSES):
        return "its backfill is over"  # Dagster retries no run of it any more
    failures = instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
    return f"{REMINDERS} reminders were in vain" if len(failures) > REMINDERS else None


def _remind(instance: DagsterInstance, run: DagsterRun) -> str:
    """Enter the failure once more, which makes the daemon look at the run again."""
    now = instance.get_run_by_id(run.run_id)
    if now is None or not now.is_complete_and_waiting_to_retry:
        return f"run {run.run_id} has been retried meanwhile"
    instance.report_run_failed(now, "It was to be retried, and was not. This entry reminds Dagster of it.")
    return f"run {run.run_id} was not retried: reminded"


def _give_up(instance: DagsterInstance, run: DagsterRun, refusal: str, notifier: Notifier) -> str:
    """Tell somebody, and make the run one that is not to be retried: a backfill need not wait for it."""
    failed = FailedRun(
        run_id=run.run_id,
        job=run.job_name,
        domain=run.tags.get("dagster/partition"),
        failed_steps=(),
        error=f"Dagster does not retry it ({refusal}). Launch it again: what it finished is not repeated.",
    )
    notifier.notify(failed)
    instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false", REPORTED_TAG: "missed_retries"})
    return failed.text

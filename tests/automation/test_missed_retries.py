"""A failed run whose retry Dagster forgot is retried all the same, or somebody is told."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    SkipReason,
    build_run_status_sensor_context,
    build_sensor_context,
    job,
    op,
)
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.tags import RETRY_NUMBER_TAG, WILL_RETRY_TAG
from dagster._core.test_utils import (
    create_run_for_test,
    create_test_daemon_workspace_context,
    instance_for_test,
)
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon

from yunmin_assets.automation import missed_retries
from yunmin_assets.automation.failure_alerts import FailedRun, NotifierError, run_failure_sensor_with
from yunmin_assets.automation.missed_retries import (
    PATIENCE_SECONDS,
    REMINDERS,
    missed_retries_sensor_with,
    runs_not_started_again,
)

RETRIES = {"run_retries": {"enabled": True, "max_retries": 2}}
QUEUE = {"run_coordinator": {"module": "dagster._core.test_utils", "class": "MockedRunCoordinator"}}


@op
def work() -> None:
    """Something to be retried."""


@job
def to_be_retried() -> None:
    """What the daemon finds in this file."""
    work()


class Told:
    """A notifier that remembers, and may be out of reach."""

    def __init__(self) -> None:
        self.alerts, self.is_away = list[FailedRun](), False

    def notify(self, failed: FailedRun) -> None:
        if self.is_away:
            raise NotifierError("nobody is there")
        self.alerts.append(failed)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with instance_for_test(overrides=RETRIES | QUEUE) as instance:
        yield instance


@pytest.fixture
def daemon(instance: DagsterInstance) -> Iterator["RetryDaemon"]:
    target = PythonFileTarget(
        __file__, attribute="to_be_retried", working_directory=None, location_name="here"
    )
    with create_test_daemon_workspace_context(target, instance) as workspace:
        yield RetryDaemon(workspace)


class RetryDaemon:
    """Dagster's own, which looks when it is told to."""

    def __init__(self, workspace: WorkspaceProcessContext) -> None:
        self.workspace, self._daemon = workspace, EventLogConsumerDaemon()
        self.look()  # what failed before its first look is no concern of it

    def look(self) -> None:
        list(self._daemon.run_iteration(self.workspace))

    def started_run(self) -> DagsterRun:
        [entry] = self.workspace.create_request_context().get_code_location_entries().values()
        assert entry.code_location is not None, entry.load_error
        [repository] = entry.code_location.get_repositories().values()
        remote = repository.get_full_job("to_be_retried")
        plan = entry.code_location.get_execution_plan(remote, {}, None, None)
        return create_run_for_test(
            self.workspace.instance,
            job_name=remote.name,
            status=DagsterRunStatus.STARTED,
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=remote.get_python_origin(),
            job_snapshot=remote.job_snapshot,
            execution_plan_snapshot=plan.execution_plan_snapshot,
        )


def tick(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, told: Told | None = None) -> str:
    """What the sensor says once the patience is over."""
    later = SimpleNamespace(time=lambda: time.time() + PATIENCE_SECONDS + 1)
    monkeypatch.setattr(missed_retries, "time", later)
    result = missed_retries_sensor_with(told or Told())(build_sensor_context(instance=instance))
    assert isinstance(result, SkipReason) and result.skip_message
    return result.skip_message


def retries_of(instance: DagsterInstance, run: DagsterRun) -> list[DagsterRun]:
    return [other for other in instance.get_runs() if other.parent_run_id == run.run_id]


def backfill(status: BulkActionStatus) -> PartitionBackfill:
    return PartitionBackfill("a", status, from_failure=False, tags={}, backfill_timestamp=time.time())


@contextmanager
def looking_too_early(daemon: RetryDaemon, instance: DagsterInstance) -> Iterator[None]:
    """The daemon looks after a failure is in the log and before it is in the run, as it may at any failure."""
    storage = instance.run_storage
    write = storage.handle_run_event

    def look_and_write(*arguments: Any) -> None:
        daemon.look()
        write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "handle_run_event", look_and_write)
        yield


def test_a_retry_that_dagster_forgot_is_started_after_a_reminder_and_once(
    instance: DagsterInstance, daemon: RetryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = daemon.started_run()
    with looking_too_early(daemon, instance):
        instance.report_run_failed(run)
    daemon.look()
    assert (
        retries_of(instance, run) == []
    )  # Dagster's error; if this fails, the sensor is not needed any more

    assert tick(instance, monkeypatch) == f"run {run.run_id} was not retried: reminded"
    daemon.look()
    [retry] = retries_of(instance, run)
    assert retry.tags[RETRY_NUMBER_TAG] == "1"
    assert tick(instance, monkeypatch) == "no failed run waits for its retry"
    daemon.look()
    assert len(retries_of(instance, run)) == 1


def test_a_retry_that_dagster_did_not_forget_needs_no_reminder(
    instance: DagsterInstance, daemon: RetryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = daemon.started_run()
    instance.report_run_failed(run)
    daemon.look()
    assert len(retries_of(instance, run)) == 1
    assert tick(instance, monkeypatch) == "no failed run waits for its retry"


def test_a_retry_that_appears_meanwhile_is_not_disturbed_by_a_reminder(
    instance: DagsterInstance, daemon: RetryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = daemon.started_run()
    instance.report_run_failed(run)
    find = runs_not_started_again

    def find_and_let_the_daemon_look(*arguments: Any) -> list[DagsterRun]:
        found = find(*arguments)
        daemon.look()
        return found

    monkeypatch.setattr(missed_retries, "runs_not_started_again", find_and_let_the_daemon_look)
    assert tick(instance, monkeypatch) == f"run {run.run_id} has been retried meanwhile"
    left = instance.get_run_by_id(run.run_id)
    assert left is not None and left.tags[WILL_RETRY_TAG] == "true"


def test_a_run_of_a_backfill_that_goes_on_is_reminded_of(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance.add_backfill(backfill(BulkActionStatus.REQUESTED))
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags={"dagster/backfill": "a"})
    instance.report_run_failed(run)
    assert tick(instance, monkeypatch).endswith("reminded")


def test_a_run_that_failed_just_now_is_given_time_however_long_it_took(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=5)
    with monkeypatch.context() as patch:
        patch.setattr("dagster._core.storage.runs.sql_run_storage.get_current_datetime", lambda: long_ago)
        run = create_run_for_test(instance, status=DagsterRunStatus.STARTED)
    [record] = instance.get_run_records()
    assert record.create_timestamp == long_ago
    before = time.time()
    instance.report_run_failed(run)
    assert runs_not_started_again(instance, before + PATIENCE_SECONDS - 1) == []
    assert [found.run_id for found in runs_not_started_again(instance, time.time() + PATIENCE_SECONDS)] == [
        run.run_id
    ]


@pytest.mark.parametrize("settings", [{}, {"run_retries": {"enabled": True, "max_retries": 0}}])
def test_a_run_that_is_not_to_be_retried_is_left_alone(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with instance_for_test(overrides=settings, temp_dir=str(tmp_path)) as instance:
        instance.report_run_failed(create_run_for_test(instance, status=DagsterRunStatus.STARTED))
        assert tick(instance, monkeypatch) == "no failed run waits for its retry"


def test_reminders_in_vain_end_with_an_alert_and_the_run_is_left_alone(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED)
    instance.report_run_failed(run)
    told = Told()
    for _ in range(REMINDERS):
        assert tick(instance, monkeypatch, told).endswith("reminded")
    assert told.alerts == []
    assert f"Dagster does not retry it ({REMINDERS} reminders were in vain)" in tick(
        instance, monkeypatch, told
    )
    assert [alert.run_id for alert in told.alerts] == [run.run_id]
    assert tick(instance, monkeypatch, told) == "no failed run waits for its retry"


@pytest.mark.parametrize("status", [BulkActionStatus.COMPLETED_FAILED, None])
def test_a_run_whose_backfill_is_over_is_no_longer_retried_and_somebody_is_told(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, status: BulkActionStatus | None
) -> None:
    if status:
        instance.add_backfill(backfill(status))
    tags = {"dagster/backfill": "a", "dagster/partition": "law"}
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=tags)
    instance.report_run_failed(run)
    told = Told()
    assert "[law] failed: Dagster does not retry it (its backfill is over)" in tick(
        instance, monkeypatch, told
    )
    assert [alert.domain for alert in told.alerts] == ["law"]
    left = instance.get_run_by_id(run.run_id)
    assert left is not None and left.tags[WILL_RETRY_TAG] == "false"


def test_an_alert_that_cannot_be_delivered_holds_up_no_other_run_and_comes_later(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten, of_no_backfill = (
        create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=tags)
        for tags in ({}, {"dagster/backfill": "deleted"})
    )
    for run in (forgotten, of_no_backfill):
        instance.report_run_failed(run)
    told = Told()
    told.is_away = True
    with pytest.raises(NotifierError, match="nobody is there"):
        tick(instance, monkeypatch, told)
    failures = instance.all_logs(forgotten.run_id, of_type=DagsterEventType.RUN_FAILURE)
    assert len(failures) == 2, "it was reminded of"

    told.is_away = False
    tick(instance, monkeypatch, told)
    assert [alert.run_id for alert in told.alerts] == [of_no_backfill.run_id]


def test_of_a_run_that_is_given_up_only_one_sensor_tells(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags={"dagster/backfill": "deleted"})
    failure = instance.report_run_failed(run)
    tick(instance, monkeypatch, told)
    sensor = run_failure_sensor_with(told)
    context = build_run_status_sensor_context(sensor.name, failure, instance, run).for_run_failure()
    sensor(context)
    assert len(told.alerts) == 1

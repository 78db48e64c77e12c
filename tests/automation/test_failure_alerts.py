"""A run fails, and somebody is told, by the log or by a webhook whose URL is written nowhere."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult, build_run_status_sensor_context, materialize

from resources.lake import Lake
from resources.settings import Settings
from tests.conftest import free_port
from yunmin_assets.automation.failure_alerts import (
    TRIES,
    WEBHOOK_VARIABLE,
    FailedRun,
    LogNotifier,
    NotifierError,
    WebhookNotifier,
    notifier_from_environment,
    run_failure_sensor_with,
)
from yunmin_assets.corpus.assets import raw_corpus

SECRET_PATH = "/hooks/do-not-tell"
FAILED = FailedRun("123", "per_domain_chain", "law", ("raw_corpus",), "no raw objects")


class Receiver:
    """A local HTTP server that answers with the given statuses in turn and keeps what it was sent."""

    def __init__(self) -> None:
        self.statuses, self.received = list[int](), list[tuple[str, dict[str, Any]]]()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.received.append((self.path, body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}{SECRET_PATH}"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    monkeypatch.setenv(WEBHOOK_VARIABLE, receiver.url)
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


def failing_run(home: Path, instance: DagsterInstance) -> ExecuteInProcessResult:
    """A real run of an asset that finds nothing to read."""
    (home / "raw").mkdir()
    (home / "pipeline.yaml").write_text(f"raw: {home / 'raw'}\nlake: {home / 'lake'}\n")
    instance.add_dynamic_partitions("domain", ["law"])
    resources = {"lake": Lake(uri=str(home / "lake")), "settings": Settings(path=str(home / "pipeline.yaml"))}
    return materialize(
        [raw_corpus], resources=resources, partition_key="law", instance=instance, raise_on_error=False
    )


def alert_about(result: ExecuteInProcessResult, instance: DagsterInstance) -> None:
    """What the daemon does after a failed run."""
    sensor = run_failure_sensor_with(notifier_from_environment())
    context = build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        dagster_event=result.get_run_failure_event(),
    ).for_run_failure()
    sensor(context)


def test_a_failed_run_reaches_the_receiver_with_job_domain_step_and_reason(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)
    with DagsterInstance.ephemeral() as instance:
        result = failing_run(tmp_path, instance)
        alert_about(result, instance)
    [(path, alert)] = receiver.received
    assert path == SECRET_PATH
    assert (alert["run_id"], alert["domain"], alert["failed_steps"]) == (result.run_id, "law", ["raw_corpus"])
    assert "no raw objects for domain 'law'" in alert["error"]
    run = f"run {result.run_id} of __ephemeral_asset_job__[law]"
    assert alert["text"] == f"{run} failed in raw_corpus: {alert['error']}"
    assert SECRET_PATH not in "".join(capfd.readouterr())


@pytest.mark.parametrize(("retries", "alerts"), [(0, 1), (1, 0)])
def test_a_run_that_dagster_retries_by_itself_wakes_nobody(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: int, alerts: int
) -> None:
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)
    settings = {"run_retries": {"enabled": True, "max_retries": retries}}
    with DagsterInstance.ephemeral(settings=settings) as instance:
        alert_about(failing_run(tmp_path, instance), instance)
    assert len(receiver.received) == alerts


def test_a_receiver_that_is_busy_is_tried_again(receiver: Receiver) -> None:
    receiver.statuses = [503, 429]
    WebhookNotifier(seconds_between=0).notify(FAILED)
    assert len(receiver.received) == 3


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (500, TRIES)])
def test_a_receiver_that_refuses_is_an_error_that_names_the_variable_and_not_the_url(
    receiver: Receiver, status: int, requests: int
) -> None:
    receiver.statuses = [status] * TRIES
    with pytest.raises(NotifierError) as raised:
        WebhookNotifier(seconds_between=0).notify(FAILED)
    assert str(raised.value) == f"the webhook in {WEBHOOK_VARIABLE} answered {status}"
    assert len(receiver.received) == requests


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("hooks.example/do-not-tell", "is no usable URL (ValueError)"),
        ("http://[do-not-tell", "is no usable URL (ValueError)"),
        ("http://do-not-tell\n/", "is no usable URL (InvalidURL)"),
        ("http://127.0.0.1:{port}/do-not-tell", "cannot be reached (ConnectionRefusedError)"),
    ],
)
def test_an_unusable_url_is_not_quoted(url: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, url.replace("{port}", str(free_port())))
    with pytest.raises(NotifierError) as raised:
        WebhookNotifier(seconds_between=0).notify(FAILED)
    assert str(raised.value) == f"the webhook in {WEBHOOK_VARIABLE} {problem}"
    assert raised.value.__cause__ is None and raised.value.__context__ is None


def test_without_a_webhook_the_log_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(WEBHOOK_VARIABLE, raising=False)
    monkeypatch.setattr(logging.getLogger("dagster"), "propagate", True)
    notifier = notifier_from_environment()
    assert isinstance(notifier, LogNotifier)
    notifier.notify(FAILED)
    assert "run 123 of per_domain_chain[law] failed in raw_corpus: no raw objects" in caplog.text

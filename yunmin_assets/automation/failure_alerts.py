"""A run failed: somebody is told, in the log or by a webhook. A run that Dagster retries by itself is only logged.

A webhook's URL is a secret. It comes from the environment variable `YUNMIN_ALERT_WEBHOOK` and is written nowhere:
errors name the variable. Another way to tell is any object with a `notify` method:

    sensors=[run_failure_sensor_with(PagerNotifier())]
"""

import json
import logging
import os
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from typing import Protocol

from dagster import DefaultSensorStatus, RunFailureSensorContext, SensorDefinition, run_failure_sensor
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

WEBHOOK_VARIABLE = "YUNMIN_ALERT_WEBHOOK"
REPORTED_TAG = "yunmin/reported_by"
"""Of a run that another sensor tells of."""
TRIES = 3
SECONDS_BETWEEN_TRIES = 2.0
TIMEOUT_SECONDS = 10.0
CHARACTERS_OF_ERROR = 1_000


@dataclass(frozen=True)
class FailedRun:
    """What somebody who is woken by it wants to know."""

    run_id: str
    job: str
    domain: str | None
    """The partition, or None for a run over all domains."""
    failed_steps: tuple[str, ...]
    error: str

    @property
    def text(self) -> str:
        """The alert in one paragraph."""
        name = f"{self.job}[{self.domain}]" if self.domain else self.job
        steps = f" in {', '.join(self.failed_steps)}" if self.failed_steps else ""
        return f"run {self.run_id} of {name} failed{steps}: {self.error}"


class NotifierError(RuntimeError):
    """An alert could not be delivered; the message names the cause and no secret."""


class Notifier(Protocol):
    """Tells somebody about a failed run."""

    def notify(self, failed: FailedRun) -> None:
        """Deliver one alert.

        Raises:
            NotifierError: it could not be delivered.
        """


class LogNotifier:
    """Writes an error into the log of this process."""

    def notify(self, failed: FailedRun) -> None:
        """Log one alert."""
        logging.getLogger("dagster.yunmin.alerts").error(failed.text)


class WebhookNotifier:
    """Posts JSON to a URL: `text`, which chat systems show, beside the fields of `FailedRun`."""

    def __init__(
        self, url_variable: str = WEBHOOK_VARIABLE, *, seconds_between: float = SECONDS_BETWEEN_TRIES
    ) -> None:
        self._variable, self._seconds_between = url_variable, seconds_between

    def notify(self, failed: FailedRun) -> None:
        """Post one alert, `TRIES` times when the receiver is away or busy."""
        for left in reversed(range(TRIES)):
            problem, may_pass = self._post(failed)
            if problem is None:
                return
            if not (left and may_pass):
                raise NotifierError(f"the webhook in {self._variable} {problem}")
            time.sleep(self._seconds_between)

    def _post(self, failed: FailedRun) -> tuple[str | None, bool]:
        """What went wrong (None: nothing), and whether it may pass. Only class names: messages may hold the URL."""
        body = json.dumps({"text": failed.text, **asdict(failed)}).encode()
        try:
            request = urllib.request.Request(
                os.environ[self._variable], body, {"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
        except KeyError:
            return "is not set", False
        except urllib.error.HTTPError as error:
            error.close()
            return f"answered {error.code}", error.code >= 500 or error.code == 429
        except OSError as error:
            reason = getattr(error, "reason", error)
            return f"cannot be reached ({type(reason).__name__})", True
        except Exception as error:  # a malformed URL raises many kinds, each quoting it
            return f"is no usable URL ({type(error).__name__})", False
        return None, False


def notifier_from_environment() -> Notifier:
    """A webhook where its variable is set, else the log."""
    return WebhookNotifier() if os.environ.get(WEBHOOK_VARIABLE) else LogNotifier()


def run_failure_sensor_with(notifier: Notifier) -> SensorDefinition:
    """The sensor that passes each failed run to `notifier`; what cannot be delivered is an error of its tick."""

    @run_failure_sensor(
        name="run_failure_alerts",
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description=f"Tells about failed runs: in the log, or by the webhook in {WEBHOOK_VARIABLE}.",
    )
    def run_failure_alerts(context: RunFailureSensorContext) -> None:
        failed = _failed_run(context)
        context.log.error(failed.text)
        if _is_looked_after(context):
            return
        try:
            notifier.notify(failed)
        except NotifierError as error:
            raise error from None

    return run_failure_alerts


def _is_looked_after(context: RunFailureSensorContext) -> bool:
    """Whether Dagster starts the run again (`run_retries`) or has done so, or somebody was told already.

    It says so in tags after the failure: ask for them now.
    """
    run = context.instance.get_run_by_id(context.dagster_run.run_id)
    if run is None:
        return False
    return run.tags.get(WILL_RETRY_TAG) == "true" or bool(
        {AUTO_RETRY_RUN_ID_TAG, REPORTED_TAG} & set(run.tags)
    )


def _failed_run(context: RunFailureSensorContext) -> FailedRun:
    run = context.dagster_run
    events = context.get_step_failure_events()
    errors = [reason_of(event.step_failure_data) for event in events]
    return FailedRun(
        run_id=run.run_id,
        job=run.job_name,
        domain=run.tags.get("dagster/partition"),
        failed_steps=tuple(event.step_key or "" for event in events),
        error=("; ".join(errors) or context.failure_event.message or "")[:CHARACTERS_OF_ERROR],
    )


def reason_of(failure: StepFailureData) -> str:
    """What went wrong in a step, in the words of the code that refused to go on."""
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error.cause if failure.error and failure.error.cause else failure.error
    return error.message.strip() if error else "failed"

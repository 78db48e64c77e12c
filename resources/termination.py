"""A person who terminates a run ends its steps too, although a run whose pod dies is resumed.

Dagster 1.13 asks only whether attempts are left, and so takes every SIGTERM of a run's pod for the loss of its node:
steps would keep their GPUs for days (https://github.com/dagster-io/dagster/issues/33923).
"""

from typing import Any

from dagster import DagsterInstance, DagsterRunStatus

TERMINATED = (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)


def forward_terminations() -> None:
    """Make the executor of this process hand on the termination of its run to the steps that are at work."""
    attempts_are_left = DagsterInstance.run_will_resume

    def run_will_resume(instance: Any, run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        return run is not None and run.status not in TERMINATED and attempts_are_left(instance, run_id)

    setattr(DagsterInstance, attempts_are_left.__name__, run_will_resume)

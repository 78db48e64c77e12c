"""Who terminates a run, or takes a node back, ends its steps: two cases in which Dagster would let them go on.

Dagster 1.13 asks only whether attempts to resume a run are left, and so takes every SIGTERM of a run's pod for the loss
of its node: steps would keep their GPUs for days (https://github.com/dagster-io/dagster/issues/33923).

In a step SIGTERM becomes an exception, raised wherever Python is at that moment. In the callback of a weak reference or
in a destructor, of which there are many while large libraries are imported, Python prints it and forgets it
(`sys.unraisablehook`): the step would train to its end, or until SIGKILL.
"""

import os
import signal
import sys
import threading
from typing import Any

from dagster import DagsterExecutionInterruptedError, DagsterInstance, DagsterRunStatus

TERMINATED = (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)
SECONDS_UNTIL_REPEATED = 0.2


def forward_terminations() -> None:
    """Make the executor of this process hand on the termination of its run to the steps that are at work."""
    attempts_are_left = DagsterInstance.run_will_resume

    def run_will_resume(instance: Any, run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        return run is not None and run.status not in TERMINATED and attempts_are_left(instance, run_id)

    setattr(DagsterInstance, attempts_are_left.__name__, run_will_resume)


def repeat_lost_interrupts() -> None:
    """Make this process send itself another SIGTERM whenever Python has lost the exception of one."""
    report = sys.unraisablehook

    def report_and_repeat(unraisable: Any) -> None:
        report(unraisable)
        if isinstance(unraisable.exc_value, DagsterExecutionInterruptedError):
            again = threading.Timer(SECONDS_UNTIL_REPEATED, os.kill, (os.getpid(), signal.SIGTERM))
            again.daemon = True
            again.start()

    sys.unraisablehook = report_and_repeat

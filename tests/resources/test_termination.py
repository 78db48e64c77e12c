"""A step that is told to end does so, wherever Python is when it is told."""

import subprocess
import sys
import textwrap

import pytest

from tests.conftest import REPOSITORY

TOLD_TO_END_WHERE_PYTHON_IGNORES_EXCEPTIONS = textwrap.dedent(
    """
    import os, signal, sys, time, weakref
    from dagster import DagsterExecutionInterruptedError
    from dagster._utils.interrupts import capture_interrupts, raise_interrupts_as
    from resources.termination import repeat_lost_interrupts

    class Thing:
        pass

    def forget(reference):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))  # the handler runs here

    def work():
        thing = Thing()
        reference = weakref.ref(thing, forget)
        del thing
        time.sleep(3)

    if sys.argv[1] == "with":
        repeat_lost_interrupts()
    with capture_interrupts(), raise_interrupts_as(DagsterExecutionInterruptedError):
        try:
            work()
            print("worked on")
        except DagsterExecutionInterruptedError:
            print("ended")
    """
)


@pytest.mark.parametrize(("repetition", "outcome"), [("without", "worked on"), ("with", "ended")])
def test_an_interrupt_that_python_loses_is_repeated(repetition: str, outcome: str) -> None:
    command = [sys.executable, "-c", TOLD_TO_END_WHERE_PYTHON_IGNORES_EXCEPTIONS, repetition]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, outcome), result.stderr
    assert "Exception ignored in: <function forget" in result.stderr

"""Run a module in several processes of this machine, one per GPU, and hear from them while they work.

    run_in_processes(module, file, 4)  →  torchrun  →  4 × python -m module file

The processes speak in JSON lines on standard output: `{"log": …}`, `{"report": …}`, `{"error": …}`. They end when
their standard input ends, that is, as soon as the process that started them is gone, however it went: nobody is
left behind who would go on writing checkpoints. The first error of any of them ends all.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from yunmin_assets.progress import Log, silent

HAS_PARENT = "YUNMIN_ENDS_WITH_STANDARD_INPUT"
ORPHANED = 75  # the exit status of a process whose parent has gone
LAST_CHARACTERS = 2000  # of standard error, when a process ended without a word
SECONDS_TO_END = 30.0


def run_in_processes(
    module: str,
    argument: Path,
    count: int,
    *,
    log: Log = silent,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Run `python -m module argument` `count` times, as ranks of one torch.distributed group.

    Returns:
        What was reported last.

    Raises:
        RuntimeError: A process failed; says what it raised.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["--module", module, str(argument)]
    threads = str(max(1, usable_cores() // count))
    environment = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", **os.environ, HAS_PARENT: "1"}
    reported: dict[str, Any] = {}
    errors: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as complaints:
        with _started(command, environment, complaints) as process:
            assert process.stdout is not None
            for line in process.stdout:
                kind, value = _message(line)
                if kind == "report":
                    reported = value
                    report(value)
                elif kind == "error":
                    errors.append(value)
                else:
                    log(value)
        if process.returncode and not errors:
            complaints.seek(0)
            errors.append(complaints.read()[-LAST_CHARACTERS:])
    if process.returncode:
        raise RuntimeError(f"one of {count} processes failed: {errors[0]}")
    return reported


class Parent:
    """The process that started this one, to be talked to."""

    def log(self, line: str) -> None:
        self._say("log", line)

    def report(self, values: Mapping[str, Any]) -> None:
        self._say("report", values)

    def error(self, line: str) -> None:
        self._say("error", line)

    def _say(self, kind: str, value: object) -> None:
        print(json.dumps({kind: value}, ensure_ascii=False), flush=True)


@contextlib.contextmanager
def talk_to_parent() -> Iterator[Parent]:
    """In a process that `run_in_processes` started: tell about failures, and end when the parent has gone."""
    parent = Parent()
    if os.environ.get(HAS_PARENT):  # whoever starts torchrun by hand need not keep its standard input open
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        yield parent
    except Exception as error:
        traceback.print_exc()
        parent.error(f"{type(error).__name__}: {error}")
        raise


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns when the pipe is closed
    os._exit(ORPHANED)


@contextlib.contextmanager
def _started(
    command: list[str], environment: Mapping[str, str], complaints: TextIO
) -> Iterator["subprocess.Popen[str]"]:
    """The launcher; all processes have ended when the block has, whatever happens in it."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        text=True,
        encoding="utf-8",
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _message(line: str) -> tuple[str, Any]:
    """Kind and value of a line; what is no message of ours is a line for the log."""
    with contextlib.suppress(ValueError):
        message = json.loads(line)
        if isinstance(message, dict) and len(message) == 1 and message.keys() <= {"log", "report", "error"}:
            return next(iter(message.items()))
    return "log", line.rstrip()


def usable_cores() -> int:
    """Cores this process may use; macOS cannot tell, so there it is all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

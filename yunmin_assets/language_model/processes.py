"""Run a module in several processes of this machine, one per GPU, and hear from them while they work.

    run_in_processes(module, file, 4)  →  torchrun  →  4 × python -m module file

The processes speak in JSON lines on standard output: `{"log": …}`, `{"report": …}`, `{"error": …}`. They end when
their standard input ends, that is, as soon as the process that started them is gone, however it went: nobody is
left behind who would go on writing checkpoints. The first error of any of them ends all. What is said may be lost
or cut, so a result belongs into a file. They import from where this process does.
"""

import contextlib
import json
import os
import re
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
LAST_CHARACTERS = 2000  # of a traceback, and of what the launcher says
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ ].*\n)+.*")
LAUNCHER_SAYS_WHO_FAILED = "\nFailures:\n"
SECONDS_TO_END = 30.0


def run_in_processes(
    module: str,
    argument: Path,
    count: int,
    *,
    log: Log = silent,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Run `python -m module argument` `count` times, as ranks of one torch.distributed group.

    Raises:
        RuntimeError: A process failed; says what the first one raised, and which ended how.
    """
    errors: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as complaints:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        # Every process complains (standard error) into a file of its own.
        command += ["--redirects=2", f"--log-dir={complaints}", "--module", module, str(argument)]
        launcher = Path(complaints) / "launcher.log"
        with launcher.open("w") as file, _started(command, _environment(count), file) as process:
            assert process.stdout is not None
            for line in process.stdout:
                kind, value = _message(line)
                if kind == "report":
                    report(value)
                elif kind == "error":
                    errors.append(value)
                else:
                    log(value)
        if process.returncode:
            said = errors[0] if errors else _first_traceback(Path(complaints))
            raise RuntimeError(f"one of {count} processes failed: {said}\n{_who_failed(launcher)}")


def _environment(count: int) -> dict[str, str]:
    """The children's: the cores shared out, and modules from where this process has them."""
    package_home = str(Path(__file__).resolve().parents[2])
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, usable_cores() // count)),
        HAS_PARENT: "1",
        "PYTHONPATH": os.pathsep.join([package_home, *(entry or os.getcwd() for entry in sys.path)]),
        "PYTHONSAFEPATH": "1",  # else a copy of the package in the working folder would come first
    }


def _first_traceback(complaints: Path) -> str:
    """What a process that failed before it could speak left on its standard error; else all that is there."""
    files = sorted(complaints.rglob("stderr.log"), key=lambda path: path.stat().st_mtime_ns)
    for path in files:
        found = TRACEBACK.search(_text(path))
        if found:
            return found[0][-LAST_CHARACTERS:]
    return "\n".join(_text(path)[-LAST_CHARACTERS:].strip() for path in files).strip() or "it said nothing"


def _who_failed(launcher: Path) -> str:
    """The launcher's list of ranks that failed, with exit status or signal; else the last that it said."""
    _, heading, failures = _text(launcher).rpartition(LAUNCHER_SAYS_WHO_FAILED)
    return (heading.lstrip() + failures).strip("=\n") if heading else failures[-LAST_CHARACTERS:]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


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
        errors="replace",
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
    """Cores this process may use: those of its CPU affinity, or fewer if OMP_NUM_THREADS says so.

    The CPU limit of a container shows in neither the affinity nor the core count, so whoever sets the limit sets the
    variable. macOS knows no affinity: there it is all cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(os.environ.get("OMP_NUM_THREADS", cores)))

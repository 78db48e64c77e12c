"""Measuring, shared by all benchmarks: fresh processes, CPU-seconds, memory, the machine.

Every measurement runs in a process of its own, so that nothing is inherited from the one before: neither
caches nor a high-water mark of memory. CPU-seconds (user and system, of all threads and of finished child
processes) are what is compared. They suffer less than wall time from others on the machine, and a tool
cannot win by taking more cores.

Two sides: `run_fresh` starts a benchmark module as a process and reads the JSON object on the last line of
its output; inside, `measured` runs the work. Memory figures need Linux's /proc.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from yunmin_assets.process_memory import memory_bytes

REPOSITORY = Path(__file__).resolve().parent.parent
MEGABYTE = 1e6
SECONDS_BETWEEN_SAMPLES = 0.01
CHARACTERS_OF_FAILURE = 3000

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """What a piece of work took.

    Attributes:
        cpu_s: CPU-seconds, user and system, of all threads and of child processes that have ended.
        wall_s: seconds by the clock.
        rss_before_mb: resident memory of the process before the work, in MB of 10⁶ bytes.
        anonymous_before_mb: the part of it that is no file.
        peak_rss_mb: largest resident memory of the process up to the end of the work.
    """

    cpu_s: float
    wall_s: float
    rss_before_mb: float
    anonymous_before_mb: float
    peak_rss_mb: float


def measured(work: Callable[[], Result]) -> tuple[Result, Cost]:
    """Run `work` once and say what it took."""
    before = memory_mb("VmRSS"), memory_mb("RssAnon")
    started, cpu_before = time.perf_counter(), _cpu_seconds()
    result = work()
    cpu, wall = _cpu_seconds() - cpu_before, time.perf_counter() - started
    return result, Cost(cpu, wall, *before, memory_mb("VmHWM"))


def memory_mb(field: str, process: int | str = "self") -> float:
    """A memory figure of a process from /proc, in MB: VmRSS now, VmHWM its peak, RssAnon without files.

    VmHWM and not `ru_maxrss`: that one starts at the size of the process that started this one.
    """
    return (memory_bytes(field, process) or 0) / MEGABYTE  # a process that has just ended has no memory


def run_fresh(
    module: str,
    arguments: Sequence[str],
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run `python -m module arguments…` from the root of the repository and return what it reports.

    Args:
        module: prints one JSON object as the last line of its output.
        arguments: its command line.
        python: the interpreter.
        environment: variables to set beside the present ones.

    Returns:
        The object, and `peak_anonymous_mb`: the process's largest anonymous memory, sampled every 10 ms.

    Raises:
        RuntimeError: the process failed; the message ends with what it wrote to standard error.
    """
    command = [python, "-m", module, *arguments]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=output, stderr=errors, env={**os.environ, **(environment or {})}
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_mb("RssAnon", process.pid))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        if process.returncode != 0:
            end = _text(errors)[-CHARACTERS_OF_FAILURE:]
            raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{end}")
        report: dict[str, Any] = json.loads(_text(output).splitlines()[-1])
    return {**report, "peak_anonymous_mb": peak}


def machine_facts() -> dict[str, Any]:
    """What a stranger needs to judge a timing: processor, usable cores, load at this moment, Python."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def describe_machine(facts: Mapping[str, Any]) -> str:
    """`machine_facts` as one line."""
    return (
        f"{facts['processor']}, {facts['cores']} cores, load average {facts['load_average']} before, "
        f"Python {facts['python']}"
    )


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of installed packages."""
    return {package: metadata.version(package) for package in packages}


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it stands: the first column to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in (names, rule, *rows):
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cpu_seconds() -> float:
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def cost_columns(reports: Sequence[dict[str, Any]]) -> dict[str, Callable[[dict[str, Any]], str]]:
    """The first columns of a comparison: the tool, its CPU-seconds, and how many times those of `ours` they are."""
    ours = next((report["cpu_s"] for report in reports if report["tool"] == "ours"), None)
    return {
        "tool": lambda r: r["tool"],
        "CPU-s (median)": lambda r: f"{r['cpu_s']:.2f} ({r['cpu_s_median']:.2f})",
        "ours is": lambda r: f"{r['cpu_s'] / ours:.1f}×" if ours else "",
    }


def tool_note(report: dict[str, Any]) -> str:
    """What a tool is and the versions it was made of, or why it has no figures."""
    if "absent" in report:
        return f"absent, because {report['absent']} is not installed: `{report['install']}`"
    if "failed" in report:
        return f"failed: {report['failed']}"
    made_of = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    return f"{report['about']}{f' ({made_of})' if made_of else ''}"


def target_verdict(value: float, target: float, more: bool) -> str:
    """Whether a target was reached, where `more` is better or less."""
    reached = value >= target if more else value <= target
    return "reached" if reached else "NOT REACHED"

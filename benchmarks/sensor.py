"""What one tick of raw_data_sensor costs with many objects on S3.

    python -m benchmarks.sensor                         100,000 objects in 8 domains
    python -m benchmarks.sensor --latency-ms 80         each answer of the store takes that long, as over a network

The store is `benchmarks.sensor_server`, a process of its own; the sensor speaks to it as to any S3 endpoint. Six
histories: all objects are new, nothing changed, one object was overwritten, one deleted, one domain added, and a
thousand objects came to all domains at once. A history ends when the sensor has listed the bucket to its end twice,
since the second pass requests what the first one saw change; a pass takes as many ticks as the limit per tick demands.
The settle time is next to none. CPU-seconds are those of the sensor's process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, SensorResult, build_sensor_context

from benchmarks.measure import REPOSITORY, describe_machine, machine_facts, markdown_table
from resources.lake import Lake
from resources.settings import Settings
from yunmin_assets.automation.sensors import raw_data_sensor

DELIVERY = 1_000
PASSES = 2
SETTLE_SECONDS = 0.001
COLUMNS = ("history", "tick", "seconds", "CPU-s", "requests", "cursor bytes", "runs requested")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What one tick of raw_data_sensor costs.")
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--domains", type=int, default=8)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    options = parser.parse_args(arguments)
    facts = machine_facts()
    with (
        _server(options) as url,
        tempfile.TemporaryDirectory() as home,
        DagsterInstance.ephemeral() as instance,
    ):
        ticks = _measure(_Sensor(Path(home), url, instance), options.domains)
    print(
        f"{options.objects:,} objects in {options.domains} domains, answers after {options.latency_ms:g} ms more"
    )
    print(describe_machine(facts), end="\n\n")
    print(markdown_table(COLUMNS, [_row(tick) for tick in ticks]), end="\n\n")
    print(
        json.dumps(
            {"objects": options.objects, "latency_ms": options.latency_ms, "machine": facts, "ticks": ticks}
        )
    )


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.sensor_server"]
    for name in ("objects", "domains", "latency_ms"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    server = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        yield str(server.stdout.readline()).strip() if server.stdout else ""
    finally:
        server.terminate()
        server.wait()


class _Sensor:
    """raw_data_sensor with its cursor, as the daemon runs it tick by tick."""

    def __init__(self, home: Path, url: str, instance: DagsterInstance) -> None:
        os.environ.update(
            AWS_ACCESS_KEY_ID="none", AWS_SECRET_ACCESS_KEY="none", AWS_DEFAULT_REGION="us-east-1"
        )
        (home / "pipeline.yaml").write_text(
            f"raw: s3://bucket/raw\nlake: {home / 'lake'}\nendpoint_url: {url}\nraw_settle_seconds: {SETTLE_SECONDS}\n"
        )
        self.lake, self.settings = Lake(uri=str(home / "lake")), Settings(path=str(home / "pipeline.yaml"))
        self.instance, self.url, self.cursor = instance, url, ""

    def tick(self) -> tuple[dict[str, Any], bool]:
        """One tick: what it cost, and whether it reached the end of the bucket."""
        requests, started, cpu = self._requests(), time.perf_counter(), time.process_time()
        context = build_sensor_context(instance=self.instance, cursor=self.cursor or None)
        result = raw_data_sensor(context, lake=self.lake, settings=self.settings)
        assert isinstance(result, SensorResult)
        self.cursor = result.cursor or ""
        cost = {
            "seconds": round(time.perf_counter() - started, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "requests": self._requests() - requests,
            "cursor_bytes": len(self.cursor.encode()),
            "runs_requested": len(result.run_requests or []),
        }
        return cost, not json.loads(self.cursor)["listing"]["after"]

    def put(self, name: str, content: bytes) -> None:
        root = self.settings.raw_root()
        root.fs.pipe_file(f"{root.path}/{name}", content)

    def delete(self, name: str) -> None:
        root = self.settings.raw_root()
        root.fs.rm_file(f"{root.path}/{name}")

    def _requests(self) -> int:
        with urllib.request.urlopen(f"{self.url}/requests") as answer:
            return int(answer.read())


def _measure(sensor: _Sensor, domains: int) -> list[dict[str, Any]]:
    def deliver() -> None:
        for number in range(DELIVERY):
            sensor.put(f"domain_{number % domains}/late-{number:04}.jsonl", b"new")

    histories: dict[str, Callable[[], None]] = {
        "all new": lambda: None,
        "nothing changed": lambda: None,
        "one overwritten": lambda: sensor.put("domain_0/00000000.jsonl", b"other"),
        "one deleted": lambda: sensor.delete("domain_0/00000000.jsonl"),
        "one new domain": lambda: sensor.put("fresh.jsonl", b"new"),
        f"{DELIVERY:,} delivered": deliver,
    }
    ticks = []
    for history, happen in histories.items():
        happen()
        number = passes = 0
        while passes < PASSES:
            number += 1
            cost, is_complete = sensor.tick()
            passes += is_complete
            ticks.append({"history": history, "tick": number, **cost})
    return ticks


def _row(tick: dict[str, Any]) -> list[str]:
    return [str(value) for value in tick.values()]


if __name__ == "__main__":
    main()

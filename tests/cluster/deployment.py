"""Dagster as it runs in a cluster: web server, daemon and code location here, runs and steps in pods.

What stands in for what: SQLite files in one shared folder for Postgres, moto for S3, this checkout for the image.
The pods get everything else as in the cluster: configuration through variables, credentials through a Secret.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance, DagsterRun, EventLogEntry, RunsFilter

from k8s.rendered_jobs import RUN_SECTIONS, load_values
from tests.cluster.api_server import ApiServer
from tests.conftest import REPOSITORY, free_port
from tests.test_backfill import BACKFILL, DagsterServer, obey_interrupts

NAMESPACE = "yunmin"
S3_SECRET = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
LOCATION, REPOSITORY_NAME = "yunmin_efficientdata", "__repository__"
START_SECONDS, STOP_SECONDS = 120, 60
POLL_SECONDS = 5  # between two looks at the pods of runs
LAUNCH_BACKFILL = """
mutation Launch($job: String!, $repository: String!, $location: String!, $partitions: [String!]!) {
  launchPartitionBackfill(backfillParams: {
    selector: {
      partitionSetName: $job,
      repositorySelector: {repositoryName: $repository, repositoryLocationName: $location}
    },
    partitionNames: $partitions
  }) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
LAUNCH = """
mutation Launch($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
TERMINATE = """
mutation Terminate($run: String!) { terminateRun(runId: $run) { __typename } }
"""
SENSOR = """
query Sensor($sensor: SensorSelector!) {
  sensorOrError(sensorSelector: $sensor) { ... on Sensor { sensorState { id } } }
}
"""
STOP_SENSOR = """
mutation Stop($id: String!) { stopSensor(id: $id) { __typename } }
"""


@dataclass
class Deployment:
    """A running Dagster, its cluster and its history."""

    server: DagsterServer
    instance: DagsterInstance
    api: ApiServer

    def stop_sensor(self, name: str) -> None:
        """Stop a sensor, as the switch in the UI does."""
        selector = {"repositoryName": REPOSITORY_NAME, "repositoryLocationName": LOCATION, "sensorName": name}
        sensor = self.server.query(SENSOR, sensor=selector)["sensorOrError"]
        answer = self.server.query(STOP_SENSOR, id=sensor["sensorState"]["id"])["stopSensor"]
        assert answer["__typename"] == "StopSensorMutationResult", answer

    def backfill(self, job: str, partitions: Sequence[str]) -> str:
        """Start a backfill; its id."""
        answer = self.server.query(
            LAUNCH_BACKFILL,
            job=f"{job}_partition_set",
            repository=REPOSITORY_NAME,
            location=LOCATION,
            partitions=list(partitions),
        )["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])

    def launch(self, job: str, partition: str, assets: Sequence[str]) -> str:
        """Start one run of some assets of a job; its id."""
        selector = {"repositoryName": REPOSITORY_NAME, "repositoryLocationName": LOCATION, "jobName": job}
        parameters = {
            "selector": selector | {"assetSelection": [{"path": [asset]} for asset in assets]},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        }
        answer = self.server.query(LAUNCH, parameters=parameters)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def wait_for_backfill(self, backfill: str, seconds: float) -> None:
        """Wait until no run of a backfill is left; if one failed, it counts as failed even when its retry succeeded."""

        def has_ended() -> bool:
            status = str(self.server.query(BACKFILL, id=backfill)["partitionBackfillOrError"]["status"])
            return status.startswith(("COMPLETED", "FAILED", "CANCELED"))

        self.server.wait("the end of the backfill", has_ended, seconds)

    def terminate(self, run: str) -> None:
        """Terminate a run, as the button in the UI does."""
        answer = self.server.query(TERMINATE, run=run)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def runs(self, partition: str) -> list[DagsterRun]:
        """Runs of a partition, in the order in which they were made."""
        return list(self.instance.get_runs(RunsFilter(tags={"dagster/partition": partition}), ascending=True))

    def log(self, run: DagsterRun) -> list[EventLogEntry]:
        """Everything that a run and its steps logged."""
        return list(self.instance.all_logs(run.run_id))


@contextlib.contextmanager
def deployed(home: Path, api: ApiServer, variables: dict[str, str], gpu_limit: int) -> Iterator[Deployment]:
    """Start Dagster with its runs in the cluster of `api`.

    Args:
        home: Folder of the history, the configuration and the server's log; it exists.
        api: The cluster's API server.
        variables: What the code is told through its environment, here and in the pods.
        gpu_limit: Steps of the pool `gpu` that may run at once.
    """
    api.write_kubeconfig(home / "kubeconfig")
    api.cluster.secrets["yunmin-s3"] = S3_SECRET
    api.cluster.config_maps["yunmin-settings"] = variables
    (home / "dagster.yaml").write_text(yaml.safe_dump(_instance(home)))
    environment = os.environ | S3_SECRET | variables | {"DAGSTER_HOME": str(home)}
    port = free_port()
    command = [str(Path(sys.executable).with_name("dagster")), "dev", "-p", str(port)]
    with DagsterInstance.from_config(str(home)) as instance, (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=obey_interrupts,
        )
        instance.event_log_storage.set_concurrency_slots("gpu", gpu_limit)
        server = DagsterServer(f"http://127.0.0.1:{port}")
        try:
            server.wait("the web server's first answer", lambda: server.query("{ version }"), START_SECONDS)
            yield Deployment(server, instance, api)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(STOP_SECONDS)


def _instance(home: Path) -> dict[str, Any]:
    """`dagster.yaml`, as the Helm chart makes it from `k8s/values.yaml`, for this machine."""
    values = load_values()
    launcher = _snake_case(values["runLauncher"]["config"]["k8sRunLauncher"])
    sections = launcher["run_k8s_config"]
    launcher |= {
        "job_image": "yunmin-efficientdata:test",
        "job_namespace": NAMESPACE,
        "dagster_home": str(home),
        "instance_config_map": "dagster-instance",
        "service_account_name": values["serviceAccount"]["name"],
        "env_config_maps": [item["name"] for item in launcher["env_config_maps"]],
        "env_secrets": [item["name"] for item in launcher["env_secrets"]],
        "run_k8s_config": {RUN_SECTIONS[name]: section for name, section in sections.items()},
        "load_incluster_config": False,
        "kubeconfig_file": str(home / "kubeconfig"),
    }
    daemon, limits = values["dagsterDaemon"], values["concurrency"]
    return {
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher},
        "run_monitoring": _snake_case(daemon["runMonitoring"]) | {"poll_interval_seconds": POLL_SECONDS},
        "run_retries": _snake_case(daemon["runRetries"]),
        "concurrency": {kind: _snake_case(limits[kind]) for kind in ("pools", "runs")},
    }


def _snake_case(values: Mapping[str, Any]) -> dict[str, Any]:
    """The chart's names of keys as those of `dagster.yaml`; what they hold stays as it is."""
    return {
        re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name): value for name, value in values.items()
    }


def materialize(home: Path, variables: dict[str, str], partition: str, assets: Sequence[str]) -> None:
    """Materialize assets of one partition in one process of this machine, with a history of its own."""
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(json.dumps({"telemetry": {"enabled": False}}))
    with DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("domain", [partition])
    command = [str(Path(sys.executable).with_name("dagster")), "asset", "materialize", "-m", "definitions"]
    command += ["--select", ",".join(assets), "--partition", partition]
    environment = os.environ | S3_SECRET | variables | {"DAGSTER_HOME": str(home)}
    result = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment | {"YUNMIN_EXECUTOR": "in_process"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-5000:]

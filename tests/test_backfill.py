"""`dagster dev` as a person runs it: files are dropped, the sensor sees them, a backfill does the rest."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY, free_port
from yunmin_assets.corpus.sample import write_sample_corpus

DOMAINS = ["korean_textbook", "papers_data", "web_data"]
DOCUMENTS_PER_DOMAIN = 120
START_SECONDS, BACKFILL_SECONDS = 120, 540

TINY = {
    "tokenizer": {"vocab_size": 600},
    "splits": {"validation": 0.1, "test": 0.1},
    "reference_model": {"model": {"hidden_size": 32, "layers": 1}, "training": {"steps": 4}},
    "pack": {"seq_len": 64},
    "base_model": {"model": {"hidden_size": 32, "layers": 1}, "training": {"steps": 4}},
    "lora_adapter": {"rank": 2, "training": {"steps": 4}},
    "domain_weights": {"steps": 2, "search_rows": 8},
    "evaluation": {"documents_per_domain": 4, "max_new_tokens": 4, "bootstrap_samples": 50},
}

GLOBAL_ASSETS = {
    "duplicate_clusters",
    "tokenizer",
    "reference_model",
    "pruning_thresholds",
    "base_model",
    "joint_adapter",
    "domain_weights",
    "merged_model",
    "loading_benchmark",
    "eval_report",
}


class DagsterServer:
    """A running `dagster dev`, spoken to over GraphQL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, text: str, **variables: Any) -> Any:
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def wait(self, what: str, is_done: Callable[[], Any], seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if result := is_done():
                    return result
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass  # not up yet
            time.sleep(1)
        raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("backfill")
    write_sample_corpus(home / "all", documents_per_domain=DOCUMENTS_PER_DOMAIN)
    (home / "raw").mkdir()
    for domain in DOMAINS:
        for path in (home / "all").glob(f"{domain}.*"):
            path.rename(home / "raw" / path.name)
    (home / "pipeline.yaml").write_text(yaml.safe_dump(TINY))
    (home / "dagster").mkdir()
    (home / "dagster" / "dagster.yaml").write_bytes((REPOSITORY / "configs" / "dagster.yaml").read_bytes())
    return home


def obey_interrupts() -> None:
    """A process started from a background job ignores SIGINT, which is how `dagster dev` is stopped."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[DagsterServer]:
    environment = os.environ | {
        "DAGSTER_HOME": str(home / "dagster"),
        "YUNMIN_CONFIG": str(home / "pipeline.yaml"),
        "YUNMIN_RAW": str(home / "raw"),
        "YUNMIN_LAKE": str(home / "lake"),
        "YUNMIN_EXECUTOR": "in_process",
    }
    port = free_port()
    command = [str(Path(sys.executable).with_name("dagster")), "dev", "-p", str(port)]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=obey_interrupts,
        )
        server = DagsterServer(f"http://127.0.0.1:{port}")
        try:
            server.wait("the web server's first answer", lambda: server.query("{ version }"), START_SECONDS)
            yield server
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


LAUNCH = """
mutation Launch($assets: [AssetKeyInput!]!, $domains: [String!]!) {
  launchPartitionBackfill(
    backfillParams: {assetSelection: $assets, partitionNames: $domains, fromFailure: false}
  ) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""

BACKFILL = """
query Backfill($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
}
"""

NODES = """
{
  assetNodes {
    assetKey { path }
    groupName kinds owners { ... on TeamAssetOwner { team } } description
    dependencyKeys { path }
    partitionKeys
    assetMaterializations(limit: 20) { partition tags { key value } metadataEntries { label } }
    assetChecksOrError { ... on AssetChecks { checks {
      name blocking executionForLatestMaterialization { status }
    } } }
  }
}
"""


@pytest.fixture(scope="module")
def nodes(server: DagsterServer, home: Path) -> dict[str, Any]:
    """Every asset as the UI knows it, after one backfill of the whole graph."""
    partitions = "{ assetNodes { assetKey { path } partitionKeys } }"

    def registered() -> list[dict[str, Any]] | None:
        found = server.query(partitions)["assetNodes"]
        keys = next(node["partitionKeys"] for node in found if node["assetKey"]["path"] == ["raw_corpus"])
        return found if sorted(keys) == DOMAINS else None

    found = server.wait("the sensor's registration of the dropped domains", registered, START_SECONDS)
    assets = [{"path": node["assetKey"]["path"]} for node in found if not is_study(node)]
    launched = server.query(LAUNCH, assets=assets, domains=DOMAINS)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def finished() -> str | None:
        status = server.query(BACKFILL, id=launched["backfillId"])["partitionBackfillOrError"]["status"]
        return status if status.startswith(("COMPLETED", "FAILED", "CANCELED")) else None

    status = server.wait("the end of the backfill", finished, BACKFILL_SECONDS)
    assert status == "COMPLETED_SUCCESS", (home / "server.log").read_text()[-5000:]
    nodes = [node for node in server.query(NODES)["assetNodes"] if not is_study(node)]
    return {node["assetKey"]["path"][-1]: node for node in nodes}


def is_study(node: dict[str, Any]) -> bool:
    """The study has a job of its own, and needs more documents than these."""
    return node["assetKey"]["path"] == ["pruning_study"]


@pytest.mark.timeout(START_SECONDS + START_SECONDS + BACKFILL_SECONDS)
def test_one_backfill_materializes_every_asset_of_every_domain(nodes: dict[str, Any]) -> None:
    for name, node in nodes.items():
        partitions = {materialization["partition"] for materialization in node["assetMaterializations"]}
        assert partitions == ({None} if name in GLOBAL_ASSETS else set(DOMAINS)), name


def test_lineage_leads_from_the_report_to_the_raw_text(nodes: dict[str, Any]) -> None:
    upstream, todo = set(), ["eval_report"]
    while todo:
        name = todo.pop()
        for key in nodes[name]["dependencyKeys"]:
            if key["path"][-1] not in upstream:
                upstream.add(key["path"][-1])
                todo.append(key["path"][-1])
    assert upstream | {"eval_report", "joint_adapter"} == set(
        nodes
    )  # that one is a control beside the report


def test_every_asset_says_what_it_is_and_what_it_made(nodes: dict[str, Any]) -> None:
    for name, node in nodes.items():
        assert node["description"] and node["kinds"] and node["owners"] and node["groupName"] != "default", (
            name
        )
        for materialization in node["assetMaterializations"]:
            labels = {entry["label"] for entry in materialization["metadataEntries"]}
            assert {"published", "snapshot", "bytes", "cpu_seconds"} <= labels, name
            tags = {tag["key"] for tag in materialization["tags"]}
            assert {"dagster/data_version", "dagster/code_version"} <= tags, name


def test_every_asset_checks_itself_and_no_blocking_check_failed(nodes: dict[str, Any]) -> None:
    for name, node in nodes.items():
        checks = node["assetChecksOrError"]["checks"]
        assert checks, f"{name} has no check"
        for check in checks:
            execution = check["executionForLatestMaterialization"]
            assert execution is not None, f"{name}: {check['name']} was never evaluated"
            assert execution["status"] == "SUCCEEDED" or not check["blocking"], f"{name}: {check['name']}"

"""How many runs Dagster's queue lets run at once, as configured for a laptop and for a cluster."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun
from dagster._utils.tags import TagConcurrencyLimitsCounter

from k8s.rendered_jobs import load_values
from tests.conftest import REPOSITORY


@pytest.fixture(params=["laptop", "cluster"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DagsterInstance]:
    """An instance with the limits of one of the two; the chart gives its limits to Dagster under other names."""
    file = tmp_path / "dagster.yaml"
    if request.param == "laptop":
        shutil.copy(REPOSITORY / "configs" / "dagster.yaml", file)
    else:
        runs = load_values()["concurrency"]["runs"]
        limits = {
            "max_concurrent_runs": runs["maxConcurrentRuns"],
            "tag_concurrency_limits": runs["tagConcurrencyLimits"],
        }
        file.write_text(yaml.safe_dump({"concurrency": {"runs": limits}}))
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def run_of(domain: str | None) -> DagsterRun:
    return DagsterRun(job_name="per_domain_chain", tags={"dagster/partition": domain} if domain else {})


def test_a_domain_has_one_run_at_a_time_and_no_other_waits_for_it(instance: DagsterInstance) -> None:
    queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    limits = TagConcurrencyLimitsCounter(queue.tag_concurrency_limits, [run_of("law"), run_of(None)])
    waiting = {domain: limits.is_blocked(run_of(domain)) for domain in ("law", "tech", None)}
    assert waiting == {"law": True, "tech": False, None: False}

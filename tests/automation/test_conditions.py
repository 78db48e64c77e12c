"""The assets over all domains are made anew once, when every domain is at rest and one of them changed."""

from collections.abc import Iterator

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetKey,
    AssetMaterialization,
    DagsterEvent,
    DagsterInstance,
    DagsterRun,
    DefaultSensorStatus,
    evaluate_automation_conditions,
)
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.events import EventSpecificData, StepMaterializationData

from definitions import defs
from yunmin_assets.automation.conditions import automation_sensor
from yunmin_assets.automation.jobs import FAN_INS

DOMAINS = ["law", "news", "tech"]
ALL_FAN_INS = set(FAN_INS)
NOTHING: set[str] = set()
pytestmark = pytest.mark.filterwarnings("ignore::dagster_shared.utils.warnings.BetaWarning")


class Chains:
    """The conditions of the real graph, tick by tick, while an instance records runs of the domains' chains."""

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance
        self.cursor: AssetDaemonCursor | None = None
        instance.add_dynamic_partitions("domain", DOMAINS)

    def tick(self) -> set[str]:
        """The assets that this tick requests."""
        result = evaluate_automation_conditions(defs, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        keys = defs.resolve_asset_graph().get_all_asset_keys()
        return {key.to_user_string() for key in keys if result.get_num_requested(key)}

    def plan(self, domain: str, asset: str = "diff_vector") -> DagsterRun:
        """A run that will materialize an asset of a domain's chain, and waits for its turn."""
        return self.instance.create_run_for_job(
            defs.resolve_job_def("per_domain_chain"),
            tags={"dagster/partition": domain},
            asset_selection={AssetKey(asset)},
        )

    def start(self, domain: str, asset: str = "diff_vector") -> DagsterRun:
        """Such a run as it has just started."""
        run = self.plan(domain, asset)
        self.report(run, "PIPELINE_START")
        return run

    def finish(self, run: DagsterRun, version: str) -> None:
        """The run ends with a difference vector of these bytes."""
        self.make(run, "diff_vector", run.tags["dagster/partition"], version)
        self.report(run, "PIPELINE_SUCCESS")

    def run(self, domain: str, version: str) -> None:
        """The whole of a chain's run."""
        self.finish(self.start(domain), version)

    def make(self, run: DagsterRun, asset: str, domain: str | None, version: str) -> None:
        """One asset is materialized in a run."""
        made = AssetMaterialization(asset, partition=domain, tags={"dagster/data_version": version})
        self.report(run, "ASSET_MATERIALIZATION", StepMaterializationData(made), step=asset)

    def refuse(self, domain: str, asset: str) -> None:
        """A run in which a blocking check of an asset fails: nothing is materialized."""
        run = self.start(domain, asset)
        self.report(run, "ASSET_CHECK_EVALUATION", blocking_check(asset, domain, passed=False), step=asset)
        self.instance.report_run_failed(run)

    def accept(self, domain: str, asset: str) -> None:
        """A run in which the check passes."""
        run = self.start(domain, asset)
        self.report(run, "ASSET_CHECK_EVALUATION", blocking_check(asset, domain, passed=True), step=asset)
        self.make(run, asset, domain, "mended")
        self.report(run, "PIPELINE_SUCCESS")

    def report(
        self, run: DagsterRun, kind: str, data: EventSpecificData | None = None, step: str | None = None
    ) -> None:
        """Record an event of a run."""
        event = DagsterEvent(kind, run.job_name, step_key=step, event_specific_data=data)
        self.instance.report_dagster_event(event, run.run_id)


def blocking_check(asset: str, domain: str, *, passed: bool) -> AssetCheckEvaluation:
    graph, key = defs.resolve_asset_graph(), AssetKey(asset)
    checks = [
        check for check in graph.asset_check_keys if check.asset_key == key and graph.get(check).blocking
    ]
    return AssetCheckEvaluation(
        asset_key=key,
        check_name=min(check.name for check in checks),
        passed=passed,
        severity=AssetCheckSeverity.ERROR,
        partition=domain,
        metadata={},
    )


@pytest.fixture
def chains() -> Iterator[Chains]:
    with DagsterInstance.ephemeral() as instance:
        chains = Chains(instance)
        assert chains.tick() == NOTHING
        yield chains


@pytest.fixture
def merged(chains: Chains) -> Chains:
    """Every domain has its difference vector, and the merge was requested."""
    for domain in DOMAINS:
        chains.run(domain, "first")
    assert chains.tick() == ALL_FAN_INS
    return chains


def test_three_adapters_that_finish_one_after_another_request_one_merge(chains: Chains) -> None:
    law, news, tech = [chains.start(domain) for domain in DOMAINS]
    assert chains.tick() == NOTHING
    chains.finish(law, "first")
    assert chains.tick() == NOTHING
    chains.finish(tech, "first")
    assert chains.tick() == NOTHING
    chains.finish(news, "first")
    assert chains.tick() == ALL_FAN_INS
    assert chains.tick() == NOTHING


def test_adapters_that_change_one_after_another_wait_for_the_last_run_too_even_a_queued_one(
    merged: Chains,
) -> None:
    law, tech = merged.start("law"), merged.plan("tech")
    merged.finish(law, "second")
    assert merged.tick() == NOTHING
    merged.report(tech, "PIPELINE_START")
    assert merged.tick() == NOTHING
    merged.finish(tech, "second")
    assert merged.tick() == ALL_FAN_INS


def test_a_difference_that_changes_between_the_request_and_the_next_tick_is_not_forgotten(
    merged: Chains,
) -> None:
    merge = merged.instance.create_run_for_job(defs.resolve_job_def("merge_and_evaluate"))
    merged.report(merge, "PIPELINE_START")
    merged.run("law", "second")
    assert merged.tick() == NOTHING
    for asset in FAN_INS:
        merged.make(merge, asset, None, "of the first version")
    merged.report(merge, "PIPELINE_SUCCESS")
    assert merged.tick() == ALL_FAN_INS
    assert merged.tick() == NOTHING


def test_a_chain_that_came_to_the_same_bytes_requests_nothing(merged: Chains) -> None:
    assert merged.tick() == NOTHING
    merged.run("law", "first")
    assert merged.tick() == NOTHING


def test_a_domain_without_a_difference_vector_holds_the_merge_back(merged: Chains) -> None:
    merged.instance.add_dynamic_partitions("domain", ["web"])
    merged.run("law", "second")
    assert merged.tick() == NOTHING
    merged.run("web", "first")
    assert merged.tick() == ALL_FAN_INS


@pytest.mark.parametrize("asset", ["clean_corpus", "diff_vector"])
def test_a_failed_blocking_check_anywhere_in_a_chain_holds_the_merge_back_until_it_passes(
    merged: Chains, asset: str
) -> None:
    merged.refuse("tech", asset)
    merged.run("law", "second")
    assert merged.tick() == NOTHING
    merged.accept("tech", asset)
    assert merged.tick() == ALL_FAN_INS


def test_a_failed_run_holds_the_merge_back_until_it_is_repeated(merged: Chains) -> None:
    law, tech = merged.start("law"), merged.start("tech")
    merged.finish(law, "second")
    merged.instance.report_run_failed(tech)
    assert merged.tick() == NOTHING
    merged.run("tech", "second")
    assert merged.tick() == ALL_FAN_INS


def test_one_sensor_watches_exactly_the_assets_with_a_condition_and_is_stopped_until_somebody_starts_it() -> (
    None
):
    graph = defs.resolve_asset_graph()
    conditioned = {key for key in graph.get_all_asset_keys() if graph.get(key).automation_condition}
    assert {key.to_user_string() for key in conditioned} == ALL_FAN_INS
    assert automation_sensor.asset_selection.resolve(graph) == conditioned
    assert automation_sensor.default_status == DefaultSensorStatus.STOPPED
    assert automation_sensor.name in [sensor.name for sensor in defs.sensors or []]

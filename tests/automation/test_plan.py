"""A mixed graph is cut into phases that can run one after the other."""

from dagster import Definitions, DynamicPartitionsDefinition, asset

from yunmin_assets.automation.plan import plan_phases

partitions = DynamicPartitionsDefinition(name="domain")


def test_phases_alternate_and_every_asset_comes_after_its_inputs() -> None:
    @asset(partitions_def=partitions)
    def a() -> None: ...

    @asset(partitions_def=partitions, deps=[a])
    def b() -> None: ...

    @asset(deps=[b])
    def over_all() -> None: ...

    @asset(partitions_def=partitions, deps=[over_all, a])
    def c() -> None: ...

    @asset(deps=[c, over_all])
    def report() -> None: ...

    graph = Definitions(assets=[a, b, over_all, c, report]).resolve_asset_graph()
    phases = [
        ([key.to_user_string() for key in phase.assets], phase.is_partitioned) for phase in plan_phases(graph)
    ]
    assert phases == [(["a", "b"], True), (["over_all"], False), (["c"], True), (["report"], False)]

"""In which order a whole graph of partitioned and unpartitioned assets is materialized on one machine.

The graph is cut into phases: within one, either every asset has a partition per domain, or none has. A
phase over domains runs domain by domain, so that each domain's chain stays together.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagster import AssetKey

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph


@dataclass(frozen=True)
class Phase:
    """Assets that are materialized together."""

    assets: tuple[AssetKey, ...]
    is_partitioned: bool


def plan_phases(graph: "AssetGraph") -> list[Phase]:
    """Cut the graph into alternating phases, upstream first."""
    number: dict[AssetKey, int] = {}
    for key in graph.toposorted_asset_keys:
        is_partitioned = graph.get(key).is_partitioned
        number[key] = max((number[parent] for parent in graph.get(key).parent_keys), default=0)
        if number[key] % 2 == is_partitioned:  # even phases are partitioned, odd ones are not
            number[key] += 1
    phases = []
    for phase in range(max(number.values()) + 1):
        assets = tuple(key for key in graph.toposorted_asset_keys if number[key] == phase)
        if assets:
            phases.append(Phase(assets, is_partitioned=phase % 2 == 0))
    return phases

"""What a backfill costs in pods: `python -m k8s.pod_table` prints the table of docs/deploy.md."""

from collections.abc import Iterator

from dagster import AssetsDefinition

from definitions import ASSETS
from resources.pods import Pods, load_pods


def pod_table(pods: Pods) -> str:
    """Every asset with its class and size, in the order of the graph; then how many pods that makes."""
    return "\n".join(_lines(pods))


def _lines(pods: Pods) -> Iterator[str]:
    yield "| asset | pods | class | CPUs | memory | scratch | GPUs |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for asset in ASSETS:
        name = asset.key.path[-1]
        size = pods.of(name)
        count = "one per domain" if _is_per_domain(asset) else "one"
        cells = [f"`{name}`", count, pods.assets[name], size.cpu, size.memory, size.scratch, size.gpus or ""]
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    per_domain = [asset.key.path[-1] for asset in ASSETS if _is_per_domain(asset)]
    with_gpu = [name for name in per_domain if pods.of(name).gpus]
    yield (
        f"A domain takes {len(per_domain)} pods one after the other, {len(with_gpu)} of them with a GPU "
        f"({', '.join(with_gpu)}); {len(ASSETS) - len(per_domain)} assets are made once for all domains."
    )


def _is_per_domain(asset: AssetsDefinition) -> bool:
    return asset.partitions_def is not None


if __name__ == "__main__":
    print(pod_table(load_pods()))

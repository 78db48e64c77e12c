"""Is what stands in `k8s/` what a cluster, the chart and the rest of the code expect?

    python -m k8s.lint        one line per problem; the exit status says whether there was one

Checked: every manifest and every Job that Dagster would create, against the OpenAPI schemas; the names of the keys in
the chart's values; and that these files agree with each other and with `configs/pods.yaml`. Where `helm` is installed
the chart is rendered with our values, too, and what comes out is checked; a chart that cannot be rendered is a problem.

Not checked without helm: the types of the values, and what the chart makes of them.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from dagster_k8s.job import UserDefinedDagsterK8sConfig

from k8s.rendered_jobs import Manifest, launcher_run_config, load_values, run_job, step_job
from k8s.validation import KUBERNETES_VERSIONS, problems_of
from resources.pods import common_part, load_pods

FOLDER = Path(__file__).resolve().parent
CHART_VERSION = "1.13.27"
HELM_FAILED = "helm: "
RENDER = ["helm", "template", "dagster", "dagster", "--repo", "https://dagster-io.github.io/helm"]
RENDER += ["--version", CHART_VERSION, "--namespace", "yunmin", "--values", str(FOLDER / "values.yaml")]


def manifests() -> dict[str, Manifest]:
    """What is applied besides the chart: `file: kind/name` → manifest."""
    return {
        f"{path.name}: {item['kind']}/{item['metadata']['name']}": item
        for path in sorted((FOLDER / "manifests").glob("*.yaml"))
        for item in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    }


def jobs() -> dict[str, Manifest]:
    """What Dagster would create: the Job of a run, and of each asset's step."""
    return {"job of a run": run_job()} | {f"job of {asset}": step_job(asset) for asset in load_pods().assets}


def values_problems(values: dict[str, Any]) -> Iterator[str]:
    """Keys that the chart does not know, and what contradicts `configs/pods.yaml`."""
    known: dict[str, list[str]] = yaml.safe_load((FOLDER / "chart_keys.yaml").read_text(encoding="utf-8"))
    for place, keys in _keys(values, ""):
        if place in known:
            yield from (
                f"values.yaml: {place or 'top level'}: the chart knows no key {key!r}"
                for key in keys - set(known[place])
            )
    common = UserDefinedDagsterK8sConfig.from_dict(common_part(load_pods()))
    if launcher_run_config(values) != common:
        yield f"values.yaml: runK8sConfig is not common_part() of resources/pods.py, which is {common.to_dict()}"
    if "postgresqlPassword" in values["postgresql"]:
        yield "values.yaml: a password stands in it: name a secret instead"


def reference_problems(values: dict[str, Any]) -> Iterator[str]:
    """Names that nothing has."""
    pods = load_pods()
    made = {(item["kind"], item["metadata"]["name"]) for item in manifests().values()}
    wanted = {
        ("ServiceAccount", pods.service_account),
        ("ServiceAccount", values["serviceAccount"]["name"]),
        ("ServiceAccount", values["dagster-user-deployments"]["serviceAccount"]["name"]),
        ("PriorityClass", pods.spot.priority_class),
        *(("ConfigMap", item["name"]) for item in values["dagsterDaemon"]["envConfigMaps"]),
    }
    yield from (f"k8s/manifests: there is no {kind} {name!r}" for kind, name in sorted(wanted - made))


def chart_problems() -> Iterator[str]:
    """What is wrong with what the chart makes of our values; needs helm and the chart's repository."""
    rendered = subprocess.run(RENDER, capture_output=True, text=True, check=False)
    if rendered.returncode:
        yield f"{HELM_FAILED}{rendered.stderr.strip()}"
        return
    for item in yaml.safe_load_all(rendered.stdout):
        if item:
            name = f"{item['kind']}/{item['metadata']['name']}"
            yield from (f"chart: {name}: {problem}" for problem in problems_of(item))


def main() -> int:
    """Print every problem; the exit status for the shell."""
    values, checked = load_values(), manifests() | jobs()
    problems = [f"{name}: {problem}" for name, item in checked.items() for problem in problems_of(item)]
    problems += [*values_problems(values), *reference_problems(values)]
    has_helm = shutil.which("helm") is not None
    problems += chart_problems() if has_helm else []
    for problem in problems:
        print(problem, file=sys.stderr)
    print(
        f"{len(checked)} manifests and Jobs checked against Kubernetes {' and '.join(KUBERNETES_VERSIONS)}, the values "
        f"against chart {CHART_VERSION}: {len(problems)} problems"
    )
    if not has_helm:
        print(
            "the chart itself was NOT rendered: helm is not installed. Types of its values were not checked"
        )
    elif any(problem.startswith(HELM_FAILED) for problem in problems):
        print("the chart itself was NOT rendered: helm failed")
    return 1 if problems else 0


def _keys(value: object, place: str) -> Iterator[tuple[str, set[str]]]:
    """Every mapping in the values: its place, and its keys. The items of a list have the list's place."""
    if isinstance(value, dict):
        yield place, set(value)
        for key, child in value.items():
            yield from _keys(child, f"{place}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for child in value:
            yield from _keys(child, place)


if __name__ == "__main__":
    sys.exit(main())

"""Every asset becomes a pod of its class: checked on the Jobs that Dagster would send to the cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config
from dagster_k8s import k8s_job_executor

from definitions import ASSETS, defs
from k8s.rendered_jobs import run_job, step_job
from k8s.validation import KUBERNETES_VERSIONS, problems_of
from resources.pods import GPU, PODS_FILE, SCRATCH_FOLDER, executor_config, load_pods

PODS = load_pods()
NAMES = [asset.key.path[-1] for asset in ASSETS]
JOBS = {"run": run_job(), **{name: step_job(name) for name in NAMES}}


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    [container] = pod_of(job)["containers"]
    return container


def variables_of(job: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in container_of(job)["env"]}


def test_every_asset_of_the_definitions_has_a_class_and_only_they() -> None:
    assert set(PODS.assets) == {
        key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys
    }


def test_exactly_the_assets_of_the_pool_gpu_get_a_gpu() -> None:
    graph = defs.resolve_asset_graph()
    pooled = {
        key.to_user_string()
        for key in graph.materializable_asset_keys
        if "gpu" in (graph.get(key).pools or set())
    }
    limited = {name for name in NAMES if GPU in container_of(JOBS[name])["resources"]["limits"]}
    assert limited == pooled and "lora_adapter" in limited


@pytest.mark.parametrize("name", ["run", *NAMES])
def test_the_cluster_would_accept_the_job(name: str) -> None:
    assert problems_of(JOBS[name]) == []


def test_a_job_with_an_unknown_key_or_an_ambiguous_list_would_be_refused() -> None:
    job = step_job("lora_adapter")
    pod_of(job)["volumez"] = []
    pod_of(job)["volumes"].append({"name": "tmp", "emptyDir": {}})
    container_of(job)["env"].append({"name": "HOME", "value": "/root"})
    found = "\n".join(problems_of(job))
    assert "volumez" in found and "2 volumes named tmp" in found and "2 env named HOME" in found
    assert all(version in found for version in KUBERNETES_VERSIONS)


@pytest.mark.parametrize("name", ["run", *NAMES])
def test_no_pod_may_do_more_than_compute(name: str) -> None:
    pod, container = pod_of(JOBS[name]), container_of(JOBS[name])
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == PODS.user
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "hostNetwork" not in pod and not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize("name", NAMES)
def test_a_step_writes_into_folders_of_its_own_whose_size_is_limited(name: str) -> None:
    job, size = JOBS[name], PODS.of(name)
    volumes = {volume["name"]: volume for volume in pod_of(job)["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container_of(job)["volumeMounts"]}
    assert mounts["/tmp"]["emptyDir"] == {"sizeLimit": PODS.tmp}
    assert mounts[SCRATCH_FOLDER]["emptyDir"] == {"sizeLimit": size.scratch}
    assert {variables_of(job)[name] for name in ("HOME", "TMPDIR")} == {SCRATCH_FOLDER}
    assert ("/dev/shm" in mounts) == bool(size.shared_memory)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_as_large_as_its_class_and_uses_as_many_threads(name: str) -> None:
    size, resources = PODS.of(name), container_of(JOBS[name])["resources"]
    assert resources["requests"] == resources["limits"]
    assert (resources["limits"]["cpu"], resources["limits"]["memory"]) == (str(size.cpu), size.memory)
    assert variables_of(JOBS[name])["OMP_NUM_THREADS"] == str(size.cpu)


def test_steps_that_run_on_spot_nodes_may_be_displaced_and_others_not() -> None:
    for name in NAMES:
        pod = pod_of(JOBS[name])
        assert (pod.get("priorityClassName") == PODS.spot.priority_class) == PODS.of(name).spot
        assert (PODS.spot.node_selector.items() <= pod["nodeSelector"].items()) == PODS.of(name).spot


def test_steps_run_as_an_account_without_rights_and_runs_as_one_that_starts_jobs() -> None:
    assert {pod_of(JOBS[name])["serviceAccountName"] for name in NAMES} == {PODS.service_account}
    assert pod_of(JOBS["run"])["serviceAccountName"] != PODS.service_account


@pytest.mark.parametrize("name", ["run", *NAMES])
def test_secrets_come_by_reference_only(name: str) -> None:
    container = container_of(JOBS[name])
    assert {item["secretRef"]["name"] for item in container["envFrom"] if "secretRef" in item} == {
        "yunmin-s3"
    }
    assert not [
        key
        for key in variables_of(JOBS[name])
        if "SECRET" in key or variables_of(JOBS[name])[key] == "password"
    ]
    assert {
        "name": "DAGSTER_PG_PASSWORD",
        "valueFrom": {"secretKeyRef": {"name": "dagster-postgresql-secret", "key": "postgresql-password"}},
    } in container["env"]


@pytest.mark.parametrize("name", ["run", *NAMES])
def test_kubernetes_never_starts_a_second_pod_by_itself(name: str) -> None:
    assert JOBS[name]["spec"]["backoffLimit"] == 0 and pod_of(JOBS[name])["restartPolicy"] == "Never"


def test_dagster_accepts_the_configuration_of_the_executor() -> None:
    result = process_config(k8s_job_executor.config_schema.config_type, executor_config(PODS, NAMES))
    assert result.success, result.errors


def test_an_asset_without_a_class_is_named() -> None:
    with pytest.raises(ValueError, match=r"pods\.yaml: assets: no class for new_asset"):
        executor_config(PODS, [*NAMES, "new_asset"])


def test_a_class_for_an_unknown_asset_is_named() -> None:
    with pytest.raises(ValueError, match=r"pods\.yaml: assets: there is no asset lora_adapter"):
        executor_config(PODS, [name for name in NAMES if name != "lora_adapter"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"assets": {"raw_corpus": "tiny"}}, r"assets\.raw_corpus: there is no class 'tiny'"),
        ({"classes": {"small": {"cpu": 1, "memory": "4GB", "scratch": "1Gi"}}}, r"classes\.small\.memory"),
        ({"classes": {"small": {"cpu": 1, "memory": "4Gi", "disk": "1Gi"}}}, r"classes\.small\.disk"),
        ({"users": 0}, r"users: "),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_file(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "pods.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(PODS_FILE.read_text()) | change))
    with pytest.raises(ValueError, match=rf"pods\.yaml: .*{said}"):
        load_pods(file)


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml"):
        load_pods(tmp_path / "nowhere.yaml")

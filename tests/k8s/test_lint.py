"""What stands in k8s/ would be accepted by a cluster and by the chart, and agrees with the rest of the repository."""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kubernetes.utils.quantity import parse_quantity

from k8s.lint import FOLDER, chart_problems, jobs, manifests, reference_problems, values_problems
from k8s.pod_table import pod_table
from k8s.rendered_jobs import load_values
from k8s.validation import problems_of
from resources.pods import load_pods
from tests.conftest import REPOSITORY

PODS = load_pods()
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
DEFAULT_DISK = "64Mi"  # of the LimitRange
HAS_HELM = shutil.which("helm") is not None


@pytest.fixture
def values() -> dict[str, Any]:
    return copy.deepcopy(load_values())


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    """The command, with the programs of one folder only."""
    return subprocess.run(
        [sys.executable, "-m", "k8s.lint"],
        cwd=REPOSITORY,
        env=os.environ | {"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_helm_the_lint_finds_nothing_and_says_that_the_chart_was_not_rendered(tmp_path: Path) -> None:
    result = lint(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert " 0 problems" in result.stdout and "NOT rendered: helm is not installed" in result.stdout


def test_a_chart_that_cannot_be_rendered_is_a_problem_and_not_passed_over(tmp_path: Path) -> None:
    helm = tmp_path / "helm"
    helm.write_text("#!/bin/sh\necho 'the repository cannot be reached' >&2\nexit 1\n")
    helm.chmod(0o755)
    result = lint(tmp_path)
    assert (result.returncode, result.stderr) == (1, "helm: the repository cannot be reached\n")
    assert " 1 problems" in result.stdout and "NOT rendered" in result.stdout


@pytest.mark.skipif(
    not HAS_HELM, reason="helm is not installed: NOT verified is what the chart makes of the values"
)
def test_what_the_chart_makes_of_the_values_would_be_accepted() -> None:
    """Needs the chart's repository: without network this fails rather than passes unchecked."""
    assert list(chart_problems()) == []


def test_a_key_that_the_chart_does_not_know_is_named_with_its_place(values: dict[str, Any]) -> None:
    values["dagsterDaemon"]["runMonitoring"]["maxResumeAttempts"] = 3
    assert list(values_problems(values)) == [
        "values.yaml: dagsterDaemon.runMonitoring: the chart knows no key 'maxResumeAttempts'"
    ]


def test_a_run_pod_that_may_do_more_than_a_step_is_found(values: dict[str, Any]) -> None:
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    launcher["runK8sConfig"]["containerConfig"]["securityContext"]["readOnlyRootFilesystem"] = False
    [problem] = values_problems(values)
    assert "runK8sConfig is not common_part()" in problem


def test_a_password_in_the_values_is_found(values: dict[str, Any]) -> None:
    values["postgresql"]["postgresqlPassword"] = "secret"
    assert [problem for problem in values_problems(values) if "password" in problem]


def test_an_account_that_nobody_made_is_found(values: dict[str, Any]) -> None:
    values["serviceAccount"]["name"] = "admin"
    assert list(reference_problems(values)) == ["k8s/manifests: there is no ServiceAccount 'admin'"]


def test_a_misspelled_key_of_a_manifest_is_found() -> None:
    [policy] = [item for name, item in manifests().items() if "default-deny" in name]
    assert problems_of(policy) == []
    policy["spec"]["podSelecter"] = policy["spec"].pop("podSelector")
    assert any("podSelecter" in problem for problem in problems_of(policy))


def test_nobody_may_do_anything_in_the_whole_cluster_and_steps_nothing_at_all() -> None:
    found = manifests().values()
    assert not [item for item in found if item["kind"].startswith("ClusterRole")]
    verbs = {
        verb for item in found if item["kind"] == "Role" for rule in item["rules"] for verb in rule["verbs"]
    }
    assert verbs == {"create", "delete", "get", "list"}
    bound = {
        subject["name"] for item in found if item["kind"] == "RoleBinding" for subject in item["subjects"]
    }
    assert PODS.service_account not in bound and bound == {"yunmin-launcher"}


def test_of_the_jobs_only_those_of_runs_may_reach_the_api_server() -> None:
    [policy] = [item for item in manifests().values() if item["metadata"]["name"] == "api-server"]
    [condition] = policy["spec"]["podSelector"]["matchExpressions"]
    labels = {name: job["spec"]["template"]["metadata"]["labels"] for name, job in jobs().items()}
    reached = {name for name, found in labels.items() if found.get(condition["key"]) in condition["values"]}
    assert reached == {"job of a run"}


def test_the_api_server_refuses_pods_that_are_not_restricted() -> None:
    [namespace] = [item for item in manifests().values() if item["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_secret_stands_in_a_file() -> None:
    assert not [name for name, item in manifests().items() if item["kind"] == "Secret"]
    written = "".join(path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.yaml"))
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s]+:[^/\s]+@", written)


def test_the_namespace_has_room_for_the_largest_step_on_every_gpu() -> None:
    [quota] = [item["spec"]["hard"] for item in manifests().values() if item["kind"] == "ResourceQuota"]
    gpu_class = PODS.of("lora_adapter")
    gpus = int(quota["requests.nvidia.com/gpu"])
    assert int(quota["requests.cpu"]) >= gpus * gpu_class.cpu
    assert int(quota["requests.memory"].removesuffix("Gi")) >= gpus * int(gpu_class.memory.removesuffix("Gi"))


def test_the_namespace_has_room_for_all_runs_that_may_be_under_way(values: dict[str, Any]) -> None:
    [quota] = [item["spec"]["hard"] for item in manifests().values() if item["kind"] == "ResourceQuota"]
    runs = values["concurrency"]["runs"]["maxConcurrentRuns"]
    [code_server] = values["dagster-user-deployments"]["deployments"]
    staying = (values["dagsterWebserver"], values["dagsterDaemon"], code_server)
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    classes = PODS.classes.values()
    for resource, of_steps in (
        ("cpu", [str(pod.cpu) for pod in classes]),
        ("memory", [pod.memory for pod in classes]),
        ("ephemeral-storage", [pod.scratch for pod in classes]),
    ):
        of_run = launcher["resources"]["requests"].get(resource, DEFAULT_DISK)
        of_staying = [part["resources"]["requests"].get(resource, DEFAULT_DISK) for part in staying]
        needed = runs * (max(map(parse_quantity, of_steps)) + parse_quantity(of_run))
        needed += sum(map(parse_quantity, of_staying))
        assert needed <= parse_quantity(quota[f"requests.{resource}"]), resource


def test_the_images_run_as_the_user_of_the_pods_and_are_built_from_named_versions() -> None:
    stages = DOCKERFILE.split("\nFROM ")
    for name in ("cpu", "cuda"):
        [stage] = [text for text in stages if text.startswith(f"base AS {name}\n")]
        assert f"USER {PODS.user}:{PODS.user}" in stage
    images = re.findall(r"^ARG \w+_IMAGE=(.+)$", DOCKERFILE, flags=re.MULTILINE)
    assert len(images) == 3 and all(re.fullmatch(r"[\w/]+:[\w.-]*\d[\w.-]*", image) for image in images)


def test_the_images_have_the_versions_of_the_constraints_and_one_cuda() -> None:
    installs = re.findall(r"pip install .*-r requirements\.txt.*", DOCKERFILE)
    assert len(installs) == 2 and all("-c constraints.txt" in line for line in installs)
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    for library in (
        "torch",
        "dagster-k8s",
        "dagster-aws",
        "dagster-postgres",
        "kubernetes",
        "psycopg2-binary",
    ):
        assert re.search(rf"^{library}==", constraints, flags=re.MULTILINE), library
    [compiler] = re.findall(r"nvidia/cuda:(\d+\.\d+)\.", DOCKERFILE)
    [wheel] = re.findall(r"/whl/cu(\d+)", DOCKERFILE)
    assert wheel == compiler.replace(".", "") and f"/cuda-{compiler} " in DOCKERFILE


def test_the_chart_has_the_version_of_dagster() -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    [dagster] = re.findall(r"^dagster==(.+)$", constraints, flags=re.MULTILINE)
    for file in (FOLDER / "lint.py", FOLDER / "values.yaml", REPOSITORY / "docs" / "deploy.md"):
        assert dagster in file.read_text(encoding="utf-8"), file


def test_only_what_runs_gets_into_the_image() -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert all((REPOSITORY / name).exists() for name in kept)
    assert {"definitions.py", "configs", "resources", "yunmin_assets"} <= set(kept)


def test_the_documented_costs_are_those_of_the_classes() -> None:
    assert pod_table(PODS) in (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_every_file_that_the_deployment_page_names_is_there() -> None:
    page = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:k8s|configs|resources|tests|yunmin_assets)/[\w./-]+\.(?:py|yaml)", page))
    assert named and not [name for name in named if not (REPOSITORY / name).exists()]


def test_the_settings_choose_the_executor_of_the_cluster() -> None:
    [settings] = [item["data"] for item in manifests().values() if item["kind"] == "ConfigMap"]
    assert settings["YUNMIN_EXECUTOR"] == "kubernetes"
    assert (REPOSITORY / settings["YUNMIN_CONFIG"].removeprefix("/app/")).exists()

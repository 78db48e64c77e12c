"""The Jobs that Dagster would send to the cluster: one of a run, and one of each asset's step.

Made by Dagster's own code from `k8s/values.yaml` (the run launcher) and `configs/pods.yaml` (the executor), merged in
the order in which `K8sStepHandler` merges them. Nothing is sent anywhere.
"""

from pathlib import Path
from typing import Any

import kubernetes.client
import yaml
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

from resources.pods import executor_config, load_pods

VALUES_FILE = Path(__file__).resolve().parent / "values.yaml"
JOB_NAME = "dagster-run-00000000-0000-0000-0000-000000000000"  # as long as the real one
RUN_SECTIONS = {
    "containerConfig": "container_config",
    "podSpecConfig": "pod_spec_config",
    "podTemplateSpecMetadata": "pod_template_spec_metadata",
    "jobSpecConfig": "job_spec_config",
    "jobMetadata": "job_metadata",
}

Manifest = dict[str, Any]


def load_values() -> dict[str, Any]:
    """The values of the chart."""
    values: dict[str, Any] = yaml.safe_load(VALUES_FILE.read_text(encoding="utf-8"))
    return values


def launcher_run_config(values: dict[str, Any]) -> UserDefinedDagsterK8sConfig:
    """`runK8sConfig` of the run launcher, as Dagster reads it."""
    sections = _launcher(values)["runK8sConfig"]
    return UserDefinedDagsterK8sConfig.from_dict(
        {RUN_SECTIONS[name]: section for name, section in sections.items()}
    )


def run_job() -> Manifest:
    """The Job of a run."""
    values = load_values()
    return _job(values, _launcher_context(values), "run_worker", ["dagster", "api", "execute_run"])


def step_job(asset: str) -> Manifest:
    """The Job of an asset's step.

    Raises:
        KeyError: there is no such asset.
    """
    values, pods = load_values(), load_pods()
    config = executor_config(pods, pods.assets)
    context = _launcher_context(values)
    for part in (config["step_k8s_config"], config["per_step_k8s_config"][asset]):
        context = context.merge(
            K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(part))
        )
    return _job(values, context, "step_worker", ["dagster", "api", "execute_step"])


def _launcher(values: dict[str, Any]) -> dict[str, Any]:
    launcher: dict[str, Any] = values["runLauncher"]["config"]["k8sRunLauncher"]
    return launcher


def _launcher_context(values: dict[str, Any]) -> K8sContainerContext:
    launcher = _launcher(values)
    return K8sContainerContext(
        image_pull_policy=launcher["imagePullPolicy"],
        service_account_name=values["serviceAccount"]["name"],
        env_config_maps=[item["name"] for item in launcher["envConfigMaps"]],
        env_secrets=[item["name"] for item in launcher["envSecrets"]],
        env_vars=launcher["envVars"],
        volume_mounts=launcher["volumeMounts"],
        volumes=launcher["volumes"],
        labels=launcher["labels"],
        resources=launcher["resources"],
        run_k8s_config=launcher_run_config(values),
    )


def _job(values: dict[str, Any], context: K8sContainerContext, component: str, args: list[str]) -> Manifest:
    [deployment] = values["dagster-user-deployments"]["deployments"]
    job = construct_dagster_k8s_job(
        job_config=DagsterK8sJobConfig(
            job_image="{repository}:{tag}".format(**deployment["image"]),
            dagster_home=values["global"]["dagsterHome"],
            postgres_password_secret=values["global"]["postgresqlSecretName"],
        ),
        args=args,
        job_name=JOB_NAME,
        pod_name=JOB_NAME,
        component=component,
        user_defined_k8s_config=context.run_k8s_config,
    )
    manifest: Manifest = kubernetes.client.ApiClient().sanitize_for_serialization(job)
    return manifest

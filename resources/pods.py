"""From `configs/pods.yaml` to what Dagster's Kubernetes executor wants: the one place that shapes pods.

    common_part(pods)            what every pod has: no rights, no writable root, a /tmp
    executor_config(pods, …)     the common part, and per asset what its class adds

Dagster merges a step's pod from the run launcher, the executor's common part and the asset's part: dictionaries key by
key, lists by appending what is not there yet. So an entry of a list (a volume, a variable) is either the same
everywhere or in one part only; two volumes of one name would be refused by the cluster.

Image, secrets and environment are the launcher's (`k8s/values.yaml`), by reference; steps inherit them. Imports neither
Dagster nor the Kubernetes client.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from yunmin_assets.config_model import ConfigModel

PODS_FILE = Path(__file__).resolve().parent.parent / "configs" / "pods.yaml"
GPU = "nvidia.com/gpu"
SCRATCH_FOLDER = "/scratch"

Quantity = Annotated[str, Field(pattern=r"^[1-9]\d*(Mi|Gi|Ti)$")]
"""Bytes as Kubernetes writes them: 512Mi, 4Gi, 1Ti."""

K8sConfig = dict[str, Any]
"""`container_config`, `pod_spec_config`, … as in Dagster's `dagster-k8s/config`."""


class Toleration(ConfigModel):
    """A taint of nodes that pods put up with."""

    key: str
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] | None = None


class SpotNodes(ConfigModel):
    """Where pods go that may be killed at any time."""

    priority_class: str
    node_selector: dict[str, str]
    tolerations: tuple[Toleration, ...] = ()


class PodClass(ConfigModel):
    """The size of a pod, and the nodes it may run on."""

    cpu: int = Field(ge=1)
    memory: Quantity
    scratch: Quantity
    gpus: int = Field(default=0, ge=0)
    shared_memory: Quantity | None = None
    spot: bool = False
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()


class Pods(ConfigModel):
    """`configs/pods.yaml`."""

    service_account: str
    user: int = Field(ge=1)
    tmp: Quantity
    grace_seconds: int = Field(ge=30)
    spot: SpotNodes
    classes: dict[str, PodClass]
    assets: dict[str, str]
    """Asset → class."""

    @model_validator(mode="after")
    def _classes_exist(self) -> "Pods":
        for asset, name in self.assets.items():
            if name not in self.classes:
                raise ValueError(
                    f"assets.{asset}: there is no class {name!r}: choose one of {', '.join(self.classes)}"
                )
        return self

    def of(self, asset: str) -> PodClass:
        """The class of an asset."""
        return self.classes[self.assets[asset]]


def load_pods(path: Path = PODS_FILE) -> Pods:
    """Read and check the classes.

    Raises:
        ValueError: the file is absent, is no YAML, or holds an unknown, ill-typed or missing key; names file and key.
    """
    try:
        return Pods(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no YAML file of pod classes: {error}") from error
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{path}: {places}") from error


def executor_config(pods: Pods, assets: Collection[str]) -> dict[str, Any]:
    """The configuration of `dagster_k8s.k8s_job_executor`.

    Args:
        pods: The classes.
        assets: Name of every asset of the definitions; each is one step of the same name.

    Raises:
        ValueError: an asset has no class, or a class is given to an unknown asset.
    """
    if missing := sorted(set(assets) - set(pods.assets)):
        raise ValueError(f"{PODS_FILE}: assets: no class for {', '.join(missing)}")
    if unknown := sorted(set(pods.assets) - set(assets)):
        raise ValueError(f"{PODS_FILE}: assets: there is no asset {', '.join(unknown)}")
    return {
        "step_k8s_config": _step_part(pods),
        "per_step_k8s_config": {asset: _class_part(pods.of(asset), pods.spot) for asset in sorted(assets)},
    }


def common_part(pods: Pods) -> K8sConfig:
    """What every pod has, those of runs (`k8s/values.yaml`) as well as those of steps."""
    return {
        "container_config": {
            "security_context": {
                "allow_privilege_escalation": False,
                "read_only_root_filesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volume_mounts": [{"name": "tmp", "mount_path": "/tmp"}],
        },
        "pod_spec_config": {
            "restart_policy": "Never",
            "termination_grace_period_seconds": pods.grace_seconds,
            "security_context": {
                "run_as_non_root": True,
                "run_as_user": pods.user,
                "run_as_group": pods.user,
                "fs_group": pods.user,
                "seccomp_profile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": "tmp", "empty_dir": {"size_limit": pods.tmp}}],
        },
        "pod_template_spec_metadata": {
            "annotations": {  # a half-empty node is no reason to throw away hours of work
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            }
        },
        "job_spec_config": {
            "backoff_limit": 0
        },  # Dagster retries; a pod replaced behind its back hangs the step
    }


def _step_part(pods: Pods) -> K8sConfig:
    """The common part, and what every step has and no run."""
    part = common_part(pods)
    part["pod_spec_config"]["service_account_name"] = pods.service_account
    part["container_config"]["volume_mounts"].append({"name": "scratch", "mount_path": SCRATCH_FOLDER})
    part["container_config"]["env"] = [
        {"name": "HOME", "value": SCRATCH_FOLDER},
        {"name": "TMPDIR", "value": SCRATCH_FOLDER},
    ]
    return part


def _class_part(pod: PodClass, spot: SpotNodes) -> K8sConfig:
    resources = {"cpu": str(pod.cpu), "memory": pod.memory, "ephemeral-storage": pod.scratch}
    if pod.gpus:
        resources[GPU] = str(pod.gpus)
    volumes: list[Mapping[str, Any]] = [{"name": "scratch", "empty_dir": {"size_limit": pod.scratch}}]
    container: K8sConfig = {
        "resources": {"requests": dict(resources), "limits": resources},
        # Libraries count the node's cores, not the pod's.
        "env": [
            {"name": name, "value": str(pod.cpu)}
            for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
        ],
    }
    if pod.shared_memory:
        volumes.append(
            {"name": "shared-memory", "empty_dir": {"medium": "Memory", "size_limit": pod.shared_memory}}
        )
        container["volume_mounts"] = [{"name": "shared-memory", "mount_path": "/dev/shm"}]
    tolerations = (*pod.tolerations, *(spot.tolerations if pod.spot else ()))
    pod_spec: K8sConfig = {
        "volumes": volumes,
        "node_selector": {**pod.node_selector, **(spot.node_selector if pod.spot else {})},
        "tolerations": [item.model_dump(exclude_none=True) for item in tolerations],
    }
    if pod.spot:
        pod_spec["priority_class_name"] = spot.priority_class
    return {"container_config": container, "pod_spec_config": pod_spec}

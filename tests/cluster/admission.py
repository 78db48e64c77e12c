"""What an API server refuses: the OpenAPI schema, strictly, and the rules for Jobs and pods that no schema states.

The schema knows neither that two volumes may not share a name nor that a request may not exceed its limit; merged
configurations break exactly such rules. Namespaces are taken to carry Pod Security's level "restricted".
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import kubernetes_validate

KUBERNETES_VERSION = "1.37"
LONGEST_NAME = 63  # of a Job, which becomes the value of a label
GPU = "nvidia.com/gpu"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_QUANTITY = re.compile(r"([0-9.]+)([a-zA-Z]*)")
_UNITS = {"m": Decimal("0.001"), "": Decimal(1)}
_UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T"), 1)}
_UNITS |= {unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)}
_RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"}
_RESTRICTED_VOLUMES |= {"projected", "secret"}


class RefusedError(Exception):
    """Why an object cannot be created."""


def admit(body: Mapping[str, Any]) -> None:
    """Let a Job or a pod pass.

    Raises:
        RefusedError: it breaks the schema or a rule; names the field.
    """
    try:
        kubernetes_validate.validate(body, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise RefusedError(f"{'.'.join(map(str, error.path))}: {error.message}") from error
    problems = list(_job_problems(body) if body["kind"] == "Job" else _pod_problems(body, "spec"))
    if problems:
        raise RefusedError("; ".join(problems))


def gpus(pod: Mapping[str, Any]) -> int:
    """GPUs that a pod occupies."""
    limits = [container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"]]
    return sum(int(limit.get(GPU, 0)) for limit in limits)


def _job_problems(job: Mapping[str, Any]) -> Iterator[str]:
    name, spec = job["metadata"]["name"], job["spec"]
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        yield f"metadata.name: {name!r} is no name of at most {LONGEST_NAME} characters"
    if spec["template"]["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        yield "spec.template.spec.restartPolicy: a Job needs Never or OnFailure"
    for option in ("parallelism", "completions"):
        if spec.get(option, 1) != 1:
            yield f"spec.{option}: this server runs Jobs of one pod"
    yield from _label_problems(job, "metadata.labels")
    yield from _pod_problems(spec["template"], "spec.template.spec")


def _pod_problems(pod: Mapping[str, Any], place: str) -> Iterator[str]:
    spec = pod["spec"]
    volumes = [volume["name"] for volume in spec.get("volumes") or []]
    yield from _label_problems(pod, f"{place.removesuffix('spec')}metadata.labels")
    yield from _repeated(volumes, f"{place}.volumes")
    if len(spec["containers"]) != 1 or spec.get("initContainers"):
        yield f"{place}.containers: this server runs pods of one container"
    for volume in spec.get("volumes") or []:
        for kind in set(volume) - {"name"} - _RESTRICTED_VOLUMES:
            yield f"{place}.volumes: {volume['name']}: {kind} is forbidden by restricted Pod Security"
    for container in spec["containers"]:
        at = f"{place}.containers[{container['name']}]"
        mounts = container.get("volumeMounts") or []
        yield from _repeated([mount["mountPath"] for mount in mounts], f"{at}.volumeMounts")
        for name in sorted({mount["name"] for mount in mounts} - set(volumes)):
            yield f"{at}.volumeMounts: no volume is named {name!r}"
        yield from _resource_problems(container.get("resources") or {}, at)
        yield from _security_problems(spec, container, at)


def _label_problems(labelled: Mapping[str, Any], place: str) -> Iterator[str]:
    for key, value in (labelled.get("metadata", {}).get("labels") or {}).items():
        if not _LABEL_VALUE.fullmatch(value):
            yield f"{place}: {key}: {value!r} is no value of a label"


def _repeated(names: Sequence[str], place: str) -> Iterator[str]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{place}: {name!r} must be unique"


def _resource_problems(resources: Mapping[str, Any], place: str) -> Iterator[str]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name, request in requests.items():
        if name in limits and _quantity(request) > _quantity(limits[name]):
            yield f"{place}.resources: {name}: the request {request} exceeds the limit {limits[name]}"
    if GPU in requests and requests[GPU] != limits.get(GPU):
        yield f"{place}.resources: {GPU}: request and limit must be equal"


def _quantity(text: str | int) -> Decimal:
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match[2] not in _UNITS:
        raise RefusedError(f"{text!r} is no quantity")
    return Decimal(match[1]) * _UNITS[match[2]]


def _security_problems(pod: Mapping[str, Any], container: Mapping[str, Any], place: str) -> Iterator[str]:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    context = (pod.get("securityContext") or {}) | (container.get("securityContext") or {})
    required = {
        "runAsNonRoot": context.get("runAsNonRoot") is True,
        "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
        "capabilities.drop": "ALL" in (context.get("capabilities") or {}).get("drop", []),
        "seccompProfile": (context.get("seccompProfile") or {}).get("type")
        in ("RuntimeDefault", "Localhost"),
        "privileged": not context.get("privileged"),
        "runAsUser": context.get("runAsUser") != 0,
        "hostNetwork, hostPID, hostIPC": not any(
            pod.get(f"host{name}") for name in ("Network", "PID", "IPC")
        ),
    }
    for name, is_met in required.items():
        if not is_met:
            yield f"{place}.securityContext: {name} is not as restricted Pod Security asks"

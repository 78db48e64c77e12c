"""Would the cluster accept a manifest? Checked against the OpenAPI schemas of Kubernetes, strictly.

The schemas know no rule that spans a list, so two are added that a cluster enforces: names within a pod's lists are
unique, and what is mounted is a volume of the pod.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import kubernetes_validate

KUBERNETES_VERSIONS = ("1.33", "1.37")  # the oldest and the newest that are supported
UNIQUE = {"volumes": "name", "volumeMounts": "mountPath", "env": "name"}

Manifest = dict[str, Any]


def problems_of(manifest: Manifest) -> list[str]:
    """What a cluster would refuse, one line each; empty when it would accept the manifest."""
    return [*_schema_problems(manifest), *_list_problems(manifest)]


def _schema_problems(manifest: Manifest) -> Iterator[str]:
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"Kubernetes {version}: {error.message}"


def _list_problems(manifest: Manifest) -> Iterator[str]:
    for pod in _pod_specs(manifest):
        volumes = {volume["name"] for volume in pod.get("volumes") or []}
        yield from _repeated(pod)
        for container in [*pod["containers"], *(pod.get("initContainers") or [])]:
            yield from _repeated(container)
            for mount in container.get("volumeMounts") or []:
                if mount["name"] not in volumes:
                    yield f"{mount['mountPath']} mounts {mount['name']}, which is no volume of the pod"


def _repeated(holder: Manifest) -> Iterator[str]:
    for field, key in UNIQUE.items():
        for name, count in Counter(item[key] for item in holder.get(field) or []).items():
            if count > 1:
                yield f"there are {count} {field} named {name}"


def _pod_specs(value: object) -> Iterator[Manifest]:
    """Every pod specification in a manifest, wherever it stands."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for child in value.values():
            yield from _pod_specs(child)
    elif isinstance(value, list):
        for child in value:
            yield from _pod_specs(child)

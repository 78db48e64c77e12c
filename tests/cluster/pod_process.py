"""A pod's container as a process on this machine.

What is like a pod: the process sees only the variables its container declares, HOME, TMPDIR and every `emptyDir`
are folders of its own that are gone when it ends, SIGTERM goes to the first process and SIGKILL to all of them.

What is not: the image is this checkout and its Python environment, other mounts are the paths of this machine, and
neither CPU nor memory is limited.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KILLED_BY_SIGNAL = 128  # a shell's and a kubelet's exit code: 128 + the signal's number

References = Mapping[tuple[str, str], Mapping[str, str]]


class PodProcess:
    """The only container of a pod, started when this is made.

    Args:
        pod: The pod as JSON.
        disk: Folder for all that is local to the pod; made now, removed when the process has ended.
        log: File that receives standard output and standard error; it stays.
        working_directory: Folder of the code, as in the image.
        references: What `envFrom` may name: ("secretRef" or "configMapRef", name) → variables.

    Raises:
        ValueError: the container asks for a Secret or ConfigMap that does not exist.
    """

    def __init__(
        self,
        pod: Mapping[str, Any],
        disk: Path,
        log: Path,
        working_directory: Path,
        references: References,
    ) -> None:
        (container,) = pod["spec"]["containers"]
        self._disk = disk
        environment = _own_folders(disk) | {"HOSTNAME": pod["metadata"]["name"]}
        environment |= _declared(container, references, _scratch_folders(pod, container, disk))
        arguments = [*(container.get("command") or []), *(container.get("args") or [])]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                arguments,
                env=environment,
                cwd=working_directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """None while the process runs; afterwards nothing of the pod is left on this machine."""
        if self._process.returncode is None:
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return None
            # The first process is not reaped yet, so its process group cannot be another's.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            shutil.rmtree(self._disk, ignore_errors=True)
        code = self._process.returncode
        return code if code >= 0 else KILLED_BY_SIGNAL - code

    def terminate(self) -> None:
        """Ask the first process to end."""
        if self.exit_code() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all processes of the pod, and wait until they have ended."""
        if self.exit_code() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            self.exit_code()


def _own_folders(disk: Path) -> dict[str, str]:
    home, temporary = disk / "home", disk / "tmp"
    home.mkdir(parents=True, exist_ok=True)
    temporary.mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
    return {"PATH": path, "LANG": "C.UTF-8", "HOME": str(home), "TMPDIR": str(temporary)}


def _scratch_folders(pod: Mapping[str, Any], container: Mapping[str, Any], disk: Path) -> dict[str, str]:
    """Path inside the container → the folder of this pod that stands for the `emptyDir` mounted there."""
    empty = {volume["name"] for volume in pod["spec"].get("volumes") or [] if "emptyDir" in volume}
    folders = {}
    for mount in container.get("volumeMounts") or []:
        if mount["name"] in empty:
            folder = disk / "volumes" / mount["name"] / mount.get("subPath", "")
            folder.mkdir(parents=True, exist_ok=True)
            folders[mount["mountPath"]] = str(folder)
    return folders


def _declared(
    container: Mapping[str, Any], references: References, scratch: Mapping[str, str]
) -> dict[str, str]:
    """The variables a container declares; one that leads into an `emptyDir` leads into this pod's own."""
    environment: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        ((kind, reference),) = source.items()
        if (kind, reference["name"]) not in references:
            raise ValueError(f'{kind.removesuffix("Ref").lower()} "{reference["name"]}" not found')
        environment |= references[kind, reference["name"]]
    for variable in container.get("env") or []:
        environment[variable["name"]] = _on_this_machine(variable.get("value", ""), scratch)
    return environment


def _on_this_machine(value: str, scratch: Mapping[str, str]) -> str:
    """A path on this machine for one in the container; a file that exists here stands for a mounted one."""
    for path, folder in scratch.items():
        if value == path or (value.startswith(f"{path}/") and not Path(value).exists()):
            return folder + value.removeprefix(path)
    return value

"""A small cluster: Jobs and pods, a scheduler that knows GPUs, and a node that runs pods as local processes.

One thread moves everything towards what was asked for, as controllers do: it looks, does the next thing for each Job
and pod, and looks again. A Job makes one pod at a time; `backoffLimit`, `activeDeadlineSeconds` and
`ttlSecondsAfterFinished` are honoured. Deleting a Job leaves its pods, unless the call says otherwise, as batch/v1
does. CPU and memory are not scheduled. What ended stays in `pods_ever`, for tests.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.cluster.admission import gpus
from tests.cluster.faults import Ending, PodFault
from tests.cluster.pod_process import PodProcess
from tests.cluster.selectors import Object

LOOK_SECONDS = 0.05
GRACE_SECONDS = 30.0  # of a pod that sets no terminationGracePeriodSeconds
BACKOFF_LIMIT = 6  # of a Job that sets none
TERMINATED = ("Succeeded", "Failed")


class NotFoundError(Exception):
    """There is no such object."""


class AlreadyExistsError(Exception):
    """There is one of this name already."""


@dataclass(eq=False)
class Pod:
    """A pod and the process that runs it."""

    shown: Object
    """The object, as the API shows it."""
    log: Path
    process: PodProcess | None = None
    killed_at: float | None = None
    """When a pod that is being deleted gets SIGKILL, on the monotonic clock."""
    fault: PodFault | None = None

    @property
    def name(self) -> str:
        return str(self.shown["metadata"]["name"])

    @property
    def labels(self) -> Mapping[str, str]:
        return self.shown["metadata"]["labels"]

    @property
    def gpus(self) -> int:
        return gpus(self.shown)

    @property
    def phase(self) -> str:
        return str(self.shown["status"]["phase"])

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Cluster:
    """Start it with `with cluster.running():`."""

    folder: Path
    working_directory: Path
    gpus: int = 0
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    """Name of a Secret → its keys and values."""
    config_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[PodFault] = field(default_factory=list)
    jobs: dict[tuple[str, str], Object] = field(default_factory=dict)
    """(namespace, name) → a Job."""
    pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    pods_ever: list[Pod] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)
    most_gpus_in_use: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    @contextlib.contextmanager
    def running(self) -> Iterator["Cluster"]:
        """Run controllers, scheduler and node in a thread; in the end no process is left.

        Raises:
            Exception: what ended the thread, such as an error of a fault's condition.
        """
        stopped = threading.Event()
        with ThreadPoolExecutor(max_workers=1) as thread:
            control = thread.submit(self._look_again_and_again, stopped)
            try:
                yield self
            finally:
                stopped.set()
                wait([control])
                for pod in self.pods.values():
                    if pod.process is not None:
                        pod.process.kill()
            control.result()

    def create_job(self, namespace: str, job: Object) -> Object:
        """Store an admitted Job.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        key = namespace, job["metadata"]["name"]
        with self.lock:
            if key in self.jobs:
                raise AlreadyExistsError(f'jobs.batch "{key[1]}" already exists')
            self.jobs[key] = {**job, "metadata": _metadata(job, namespace), "status": {}}
            return self.jobs[key]

    def create_pod(self, namespace: str, pod: Object) -> Object:
        """Store an admitted pod.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        key = namespace, pod["metadata"]["name"]
        with self.lock:
            if key in self.pods:
                raise AlreadyExistsError(f'pods "{key[1]}" already exists')
            status = {"phase": "Pending", "conditions": [], "containerStatuses": []}
            shown = {**pod, "metadata": _metadata(pod, namespace), "status": status}
            log = self.folder / f"{len(self.pods_ever):03d}-{key[1]}.log"
            self.pods[key] = Pod(shown, log)
            self.pods_ever.append(self.pods[key])
            return shown

    def delete_job(self, namespace: str, name: str, *, with_pods: bool) -> None:
        """Remove a Job; its pods lose their owner or go with it.

        Raises:
            NotFoundError: there is none of this name.
        """
        with self.lock:
            if (namespace, name) not in self.jobs:
                raise NotFoundError(f'jobs.batch "{name}" not found')
            job = self.jobs.pop((namespace, name))
            for pod in self._pods_of(job):
                del pod.shown["metadata"]["ownerReferences"]
                if with_pods:
                    self.delete_pod(namespace, pod.name)

    def delete_pod(self, namespace: str, name: str, grace_seconds: float | None = None) -> Object:
        """Ask a pod to end; it is removed when its process has ended.

        Raises:
            NotFoundError: there is none of this name.
        """
        with self.lock:
            pod = self.pods.get((namespace, name))
            if pod is None:
                raise NotFoundError(f'pods "{name}" not found')
            if pod.killed_at is None:
                if grace_seconds is None:
                    grace_seconds = pod.shown["spec"].get("terminationGracePeriodSeconds", GRACE_SECONDS)
                pod.killed_at = time.monotonic() + grace_seconds
                pod.shown["metadata"]["deletionTimestamp"] = _now()
                if pod.process is not None:
                    self._report(pod.shown, "Normal", "Killing", "Stopping container")
                    pod.process.terminate()
            return pod.shown

    def _look_again_and_again(self, stopped: threading.Event) -> None:
        while not stopped.wait(LOOK_SECONDS):
            with self.lock:
                for job in list(self.jobs.values()):
                    self._control(job)
                for key, pod in list(self.pods.items()):
                    self._meet_faults(pod)
                    self._move_on(pod)
                    if pod.killed_at is not None and (pod.process is None or pod.phase in TERMINATED):
                        if pod.phase == "Pending":
                            self._count(pod)
                        del self.pods[key]

    # Jobs

    def _control(self, job: Object) -> None:
        """The next thing a Job needs: a pod, a verdict, or to be forgotten."""
        spec, status = job["spec"], job["status"]
        status.setdefault("startTime", _now())
        age = (datetime.now(UTC) - datetime.fromisoformat(status["startTime"])).total_seconds()
        pods = self._pods_of(job)
        status["active"] = sum(pod.phase not in TERMINATED for pod in pods)
        if "conditions" in status:
            self._forget_when_due(job)
        elif status.get("succeeded"):
            status["completionTime"] = _now()
            self._conclude(job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
        elif age > spec.get("activeDeadlineSeconds", float("inf")):
            for pod in pods:
                self.delete_pod(job["metadata"]["namespace"], pod.name)
            self._conclude(job, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
        elif status.get("failed", 0) > spec.get("backoffLimit", BACKOFF_LIMIT):
            self._conclude(
                job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
            )
        elif not status["active"]:
            self._create_pod_of(job)

    def _pods_of(self, job: Object) -> list[Pod]:
        uid = job["metadata"]["uid"]
        return [
            pod
            for pod in self.pods.values()
            if any(owner["uid"] == uid for owner in pod.shown["metadata"].get("ownerReferences", []))
        ]

    def _create_pod_of(self, job: Object) -> None:
        template, name = deepcopy(job["spec"]["template"]), job["metadata"]["name"]
        uid = job["metadata"]["uid"]
        own = {
            "job-name": name,
            "batch.kubernetes.io/job-name": name,
            "batch.kubernetes.io/controller-uid": uid,
        }
        metadata = {
            "name": f"{name}-{uuid.uuid4().hex[:5]}",
            "labels": (template.get("metadata", {}).get("labels") or {}) | own,
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": True}
            ],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        self.create_pod(job["metadata"]["namespace"], pod)
        self._report(job, "Normal", "SuccessfulCreate", f"Created pod: {metadata['name']}")

    def _conclude(self, job: Object, kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        job["status"]["conditions"] = [{**condition, "lastTransitionTime": _now()}]
        job["status"]["active"] = 0
        self._report(job, "Normal" if kind == "Complete" else "Warning", reason, message)

    def _forget_when_due(self, job: Object) -> None:
        seconds = job["spec"].get("ttlSecondsAfterFinished", float("inf"))
        ended = datetime.fromisoformat(job["status"]["conditions"][0]["lastTransitionTime"])
        if (datetime.now(UTC) - ended).total_seconds() > seconds:
            self.delete_job(job["metadata"]["namespace"], job["metadata"]["name"], with_pods=True)

    def _count(self, pod: Pod) -> None:
        """Tell the pod's Job, once, how it ended; a pod deleted before it ran counts as failed."""
        counter = "succeeded" if pod.phase == "Succeeded" else "failed"
        for job in self.jobs.values():
            if pod in self._pods_of(job):
                job["status"][counter] = job["status"].get(counter, 0) + 1

    # Scheduler and node

    def _move_on(self, pod: Pod) -> None:
        if pod.phase == "Pending" and pod.killed_at is None:
            in_use = sum(other.gpus for other in self.pods.values() if other.phase == "Running")
            if pod.gpus > self.gpus - in_use:
                self._report_once(
                    pod, "FailedScheduling", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
                )
                return
            self._start(pod)
            if pod.phase == "Running":
                self.most_gpus_in_use = max(self.most_gpus_in_use, in_use + pod.gpus)
        elif pod.phase == "Running" and pod.process is not None:
            code = pod.process.exit_code()
            if code is not None:
                self._end(pod, code)
            elif pod.killed_at is not None and time.monotonic() > pod.killed_at:
                pod.process.kill()

    def _start(self, pod: Pod) -> None:
        disk = self.folder / "disks" / pod.name
        references = {("secretRef", name): values for name, values in self.secrets.items()}
        references |= {("configMapRef", name): values for name, values in self.config_maps.items()}
        try:
            pod.process = PodProcess(pod.shown, disk, pod.log, self.working_directory, references)
        except (ValueError, OSError) as error:
            waiting = {"reason": "CreateContainerConfigError", "message": str(error)}
            pod.shown["status"]["containerStatuses"] = [_container_status(pod, {"waiting": waiting})]
            self._report_once(pod, "Failed", f"Error: {error}")
            return
        status = pod.shown["status"]
        status |= {"phase": "Running", "startTime": _now()}
        status["containerStatuses"] = [_container_status(pod, {"running": {"startedAt": _now()}})]
        self._report(pod.shown, "Normal", "Started", "Container started")

    def _end(self, pod: Pod, code: int) -> None:
        pod.shown["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
        reason = "Completed" if code == 0 else "Error"
        state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": _now()}}
        pod.shown["status"]["containerStatuses"] = [_container_status(pod, state)]
        self._count(pod)

    def _meet_faults(self, pod: Pod) -> None:
        if pod.phase != "Running" or pod.process is None or pod.killed_at is not None:
            return
        for fault in self.faults:
            if fault.take(pod):
                pod.fault = fault
                if fault.ending is Ending.EVICTED:
                    self.delete_pod(pod.shown["metadata"]["namespace"], pod.name)
                else:
                    pod.process.kill()

    # Events

    def _report(self, about: Object, severity: str, reason: str, message: str) -> None:
        metadata = about["metadata"]
        event = {
            "metadata": {
                "name": f"{metadata['name']}.{len(self.events)}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {key: metadata[key] for key in ("name", "namespace", "uid")}
            | {"kind": about["kind"]},
            "type": severity,
            "reason": reason,
            "message": message,
            "count": 1,
            "lastTimestamp": _now(),
        }
        self.events.append(event)

    def _report_once(self, pod: Pod, reason: str, message: str) -> None:
        about = [
            event for event in self.events if event["involvedObject"]["uid"] == pod.shown["metadata"]["uid"]
        ]
        if not any(event["reason"] == reason for event in about):
            self._report(pod.shown, "Warning", reason, message)


def _metadata(item: Object, namespace: str) -> Object:
    own = {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
    return {"labels": {}, **item["metadata"], **own}


def _container_status(pod: Pod, state: Object) -> Object:
    (container,) = pod.shown["spec"]["containers"]
    running = "running" in state
    known = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
    return {**known, "ready": running, "started": running, "state": state}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

"""The test server keeps the promises of a cluster, as the official Kubernetes client sees them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import config
from kubernetes.client import ApiClient, ApiException, BatchV1Api, CoreV1Api, V1Job, V1Pod
from urllib3.exceptions import HTTPError

from tests.cluster.api_server import ApiServer
from tests.cluster.faults import ApiFault, Ending, LostAnswer, PodFault, Silence, Status

NAMESPACE = "yunmin"
SECONDS = 20.0
SLEEP = "import time; print('asleep', flush=True); time.sleep(60)"
TRAP_SIGTERM = (
    "import signal; signal.signal(signal.SIGTERM, lambda *_: print('not yet', flush=True)); " + SLEEP
)


class Client:
    """The two APIs a client of Jobs uses."""

    def __init__(self, kubeconfig: Path) -> None:
        self.api: ApiClient = config.new_client_from_config(str(kubeconfig))
        self.batch, self.core = BatchV1Api(self.api), CoreV1Api(self.api)

    def create(self, job: dict[str, Any], **options: Any) -> V1Job:
        return self.batch.create_namespaced_job(NAMESPACE, job, **options)

    def job(self, name: str) -> V1Job:
        return self.batch.read_namespaced_job_status(name, NAMESPACE)

    def pods(self, job: str) -> list[V1Pod]:
        pods: list[V1Pod] = self.core.list_namespaced_pod(NAMESPACE, label_selector=f"job-name={job}").items
        return pods

    def log(self, job: str) -> str:
        name = self.pods(job)[0].metadata.name
        response = self.core.read_namespaced_pod_log(name, NAMESPACE, _preload_content=False)
        return str(response.data.decode())

    def wait(self, job: str, condition: str) -> V1Job:
        """The Job, once it is Complete or Failed."""
        wait_until(lambda: self.job(job).status.conditions)
        found = self.job(job)
        assert found.status.conditions[0].type == condition, found.status
        return found

    def wait_until_it_prints(self, job: str, text: str) -> None:
        wait_until(
            lambda: self.pods(job) and self.pods(job)[0].status.phase == "Running" and text in self.log(job)
        )


def wait_until(is_so: Callable[[], Any], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def job_of(name: str, program: str, gpus: int = 0, **spec: Any) -> dict[str, Any]:
    """A Job that runs a line of Python and keeps to restricted Pod Security."""
    security = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container: dict[str, Any] = {"name": "only", "image": "test", "command": ["python", "-c", program]}
    container |= {"securityContext": security, "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    template = {"metadata": {"labels": {"purpose": name}}, "spec": pod}
    job = {"backoffLimit": 0, "template": template, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": job}


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.fixture
def client(api_server: ApiServer, tmp_path: Path) -> Client:
    api_server.write_kubeconfig(tmp_path / "kubeconfig")
    return Client(tmp_path / "kubeconfig")


def test_a_job_runs_its_container_and_says_how_it_ended(client: Client) -> None:
    client.create(job_of("good", "print('done')"))
    client.create(job_of("bad", "raise SystemExit(3)"))
    good, bad = client.wait("good", "Complete"), client.wait("bad", "Failed")
    assert (good.status.succeeded, good.status.failed, good.status.active) == (1, None, 0)
    assert (bad.status.succeeded, bad.status.failed, bad.status.active) == (None, 1, 0)
    assert good.status.completion_time and not bad.status.completion_time
    assert client.log("good") == "done\n"
    assert client.pods("bad")[0].status.container_statuses[0].state.terminated.exit_code == 3
    assert [pod.metadata.labels["purpose"] for pod in client.core.list_namespaced_pod(NAMESPACE).items] == [
        "good",
        "bad",
    ]
    assert client.core.list_namespaced_pod("elsewhere").items == []
    events = client.core.list_namespaced_event(NAMESPACE, field_selector="involvedObject.name=bad").items
    assert [event.reason for event in events] == ["SuccessfulCreate", "BackoffLimitExceeded"]


def test_nothing_local_outlives_a_pod_and_no_pod_sees_another_s_folders(
    client: Client, tmp_path: Path
) -> None:
    program = (
        "import os, pathlib, tempfile; home = pathlib.Path.home(); temporary = pathlib.Path(tempfile.gettempdir()); "
        "scratch = pathlib.Path(os.environ['SCRATCH']); "
        "folders = [home, temporary, scratch]; print([list(folder.iterdir()) for folder in folders]); "
        "[(folder / 'file').touch() for folder in folders]; print(*folders, sep='\\n'); print(sorted(os.environ))"
    )
    outputs = []
    for name in ("first", "second"):
        job = job_of(name, program)
        job["spec"]["template"]["spec"]["volumes"] = [{"name": "scratch", "emptyDir": {}}]
        container_of(job)["volumeMounts"] = [{"name": "scratch", "mountPath": "/scratch"}]
        container_of(job)["env"] = [{"name": "SCRATCH", "value": "/scratch"}]
        client.create(job)
        client.wait(name, "Complete")
        outputs.append(client.log(name).splitlines())
    for output in outputs:
        assert output[0] == "[[], [], []]"
        assert not any(Path(folder).exists() for folder in output[1:4])
        assert output[4] == "['HOME', 'HOSTNAME', 'LANG', 'PATH', 'SCRATCH', 'TMPDIR']"
    assert set(outputs[0][1:4]).isdisjoint(outputs[1][1:4])


def test_secrets_come_by_reference_and_a_missing_one_keeps_the_pod_waiting(
    client: Client, api_server: ApiServer
) -> None:
    job = job_of("reader", "import os; print(os.environ['PASSWORD'])")
    container_of(job)["envFrom"] = [{"secretRef": {"name": "s3"}}]
    client.create(job)
    wait_until(lambda: client.pods("reader") and client.pods("reader")[0].status.container_statuses)
    waiting = client.pods("reader")[0].status.container_statuses[0].state.waiting
    assert (waiting.reason, waiting.message) == ("CreateContainerConfigError", 'secret "s3" not found')
    api_server.cluster.secrets["s3"] = {"PASSWORD": "given"}
    client.wait("reader", "Complete")
    assert client.log("reader") == "given\n"


def test_pods_wait_for_a_free_gpu(client: Client, api_server: ApiServer, tmp_path: Path) -> None:
    done = tmp_path / "done"
    work = f"import os, time\nwhile not os.path.exists({str(done)!r}): time.sleep(0.05)"
    for name in ("a", "b", "c"):
        client.create(job_of(name, work, gpus=1))
    client.create(job_of("d", "print('needs none')"))
    wait_until(lambda: client.pods("c"))
    client.wait("d", "Complete")
    assert client.pods("c")[0].status.phase == "Pending"
    events = client.core.list_namespaced_event(NAMESPACE).items
    assert any("Insufficient nvidia.com/gpu" in event.message for event in events)
    done.touch()
    client.wait("c", "Complete")
    assert api_server.cluster.most_gpus_in_use == 2


def test_a_deleted_pod_has_its_grace_period_and_not_more(client: Client, api_server: ApiServer) -> None:
    client.create(job_of("stubborn", TRAP_SIGTERM))
    client.wait_until_it_prints("stubborn", "asleep")
    (pod,) = client.pods("stubborn")
    client.core.delete_namespaced_pod(pod.metadata.name, NAMESPACE)
    client.wait_until_it_prints("stubborn", "not yet")
    assert client.pods("stubborn")[0].metadata.deletion_timestamp
    client.wait("stubborn", "Failed")
    wait_until(lambda: not client.pods("stubborn"))
    assert (
        api_server.cluster.pods_ever[0].shown["status"]["containerStatuses"][0]["state"]["terminated"][
            "exitCode"
        ]
        == 137
    )


def test_deleting_a_job_leaves_its_pod_unless_asked_otherwise(client: Client) -> None:
    for name, options in (("orphan", {}), ("cascade", {"propagation_policy": "Background"})):
        client.create(job_of(name, SLEEP))
        client.wait_until_it_prints(name, "asleep")
        client.batch.delete_namespaced_job(name, NAMESPACE, **options)
        with pytest.raises(ApiException, match="not found"):
            client.job(name)
    wait_until(lambda: not client.pods("cascade"))
    assert client.pods("orphan")[0].status.phase == "Running"


def test_limits_of_a_job_are_kept(client: Client) -> None:
    client.create(job_of("again", "raise SystemExit(1)", backoffLimit=2))
    client.create(job_of("late", SLEEP, activeDeadlineSeconds=1))
    client.create(job_of("short", "print('done')", ttlSecondsAfterFinished=0))
    wait_until(
        lambda: not client.batch.list_namespaced_job(NAMESPACE, field_selector="metadata.name=short").items
    )
    again, late = client.wait("again", "Failed"), client.wait("late", "Failed")
    assert (again.status.failed, len(client.pods("again"))) == (3, 3)
    assert late.status.conditions[0].reason == "DeadlineExceeded"
    wait_until(lambda: not client.pods("late") and not client.pods("short"))


def broken(change: Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], Any]) -> dict[str, Any]:
    job = job_of("broken", "pass")
    change(job["spec"], job["spec"]["template"]["spec"], container_of(job))
    return job


@pytest.mark.parametrize(
    ("job", "complaint"),
    [
        (broken(lambda job, pod, container: pod.update(tolerance=[])), "tolerance"),
        (broken(lambda job, pod, container: container.update(image=7)), "image"),
        (broken(lambda job, pod, container: pod.pop("restartPolicy")), "restartPolicy: a Job needs Never"),
        (
            broken(lambda job, pod, container: pod.update(volumes=[{"name": "a", "emptyDir": {}}] * 2)),
            "'a' must be unique",
        ),
        (
            broken(
                lambda job, pod, container: container.update(volumeMounts=[{"name": "b", "mountPath": "/b"}])
            ),
            "no volume is named 'b'",
        ),
        (
            broken(
                lambda job, pod, container: container["resources"].update(requests={"nvidia.com/gpu": "1"})
            ),
            "request and limit must be equal",
        ),
        (
            broken(
                lambda job, pod, container: container["resources"].update(
                    requests={"memory": "2Gi"}, limits={"memory": "2000Mi"}
                )
            ),
            "the request 2Gi exceeds the limit 2000Mi",
        ),
        (
            broken(lambda job, pod, container: container["securityContext"].update(privileged=True)),
            "privileged is not as restricted",
        ),
        (
            broken(lambda job, pod, container: job["template"]["metadata"]["labels"].update(op="a[b]")),
            r"'a\[b\]' is no value of a label",
        ),
    ],
)
def test_a_job_that_a_cluster_would_refuse_is_refused(
    client: Client, api_server: ApiServer, job: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ApiException, match=complaint) as error:
        client.create(job)
    assert error.value.status == 422
    assert not api_server.cluster.jobs


def test_a_call_that_is_not_served_is_an_error(client: Client) -> None:
    with pytest.raises(ApiException, match="not served"):
        client.core.list_node()
    with pytest.raises(ApiException, match="not served"):
        client.core.list_namespaced_pod(NAMESPACE, watch=True)
    with pytest.raises(ApiException, match="unable to parse"):
        client.core.list_namespaced_pod(NAMESPACE, label_selector="a!=b")


def test_a_name_is_taken_once(client: Client) -> None:
    client.create(job_of("one", "pass"))
    with pytest.raises(ApiException, match="already exists") as error:
        client.create(job_of("one", "pass"))
    assert error.value.status == 409


def test_faults_of_the_server_meet_the_calls_they_are_meant_for(
    client: Client, api_server: ApiServer
) -> None:
    api_server.faults += [
        ApiFault(lambda call: call.method == "POST", Status(500), times=2),
        ApiFault(lambda call: call.method == "POST", Silence(5)),
        ApiFault(lambda call: call.method == "POST", LostAnswer()),
        ApiFault(lambda call: call.path.endswith("/status"), Status(429, retry_after_seconds=1)),
    ]
    for _ in range(2):
        with pytest.raises(ApiException) as error:
            client.create(job_of("one", "pass"))
        assert error.value.status == 500
    with pytest.raises(HTTPError, match="timed out"):
        client.create(job_of("one", "pass"), _request_timeout=0.2)
    with pytest.raises(HTTPError, match="aborted"):
        client.create(job_of("one", "pass"))
    assert ("yunmin", "one") in api_server.cluster.jobs
    client.wait("one", "Complete")  # urllib3 obeys Retry-After
    answers = [code for call, code in api_server.calls if call.method == "POST"]
    assert sorted(answers, key=str) == [500, 500, None]  # the silent call still waits
    assert 429 in [code for call, code in api_server.calls]


def test_pods_lose_their_node_with_and_without_a_warning(client: Client, api_server: ApiServer) -> None:
    program = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit('packed up')); " + SLEEP
    killed = PodFault(lambda pod: pod.labels["purpose"] == "killed" and "asleep" in pod.output)
    evicted = PodFault(
        lambda pod: pod.labels["purpose"] == "evicted" and "asleep" in pod.output, ending=Ending.EVICTED
    )
    api_server.cluster.faults += [killed, evicted]
    for name in ("killed", "evicted"):
        client.create(job_of(name, program))
        client.wait(name, "Failed")
    assert killed.met[0].output == "asleep\n"
    assert evicted.met[0].output == "asleep\npacked up\n"
    assert not client.pods("evicted") and client.pods("killed")[0].status.phase == "Failed"

"""The per-domain chain as a backfill in pods on S3, while pods die and the API server fails: nothing is lost.

One backfill meets every fault, each in a run of its own choosing, for pods take their time. The models it builds on
are made beforehand, from another domain.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from dagster import DagsterEventType, DagsterRunStatus

from resources.lake import Lake, open_uri
from tests.cluster.api_server import ApiServer
from tests.cluster.cluster import Cluster, Pod
from tests.cluster.deployment import Deployment, deployed, materialize
from tests.cluster.faults import ApiFault, Call, Ending, LostAnswer, PodFault, Silence, Status
from tests.conftest import REPOSITORY
from tests.test_backfill import TINY
from yunmin_assets.automation.jobs import GLOBAL_MODELS
from yunmin_assets.corpus.sample import write_sample_corpus

FIRST_DOMAIN = "social_media_data"
TEXTBOOK, PAPERS, WEB = DOMAINS = ("korean_textbook", "papers_data", "web_data")
CHAIN = {
    "raw_corpus",
    "clean_corpus",
    "signatures",
    "duplicate_clusters",
    "deduped_corpus",
    "perplexity",
    "pruning_thresholds",
    "pruned_corpus",
    "parquet_shards",
    "lora_adapter",
    "diff_vector",
}
OVER_ALL_DOMAINS = {"duplicate_clusters", "pruning_thresholds"}
ON_GPU = {"perplexity", "lora_adapter"}
GPU_LIMIT, GPUS = 2, 3  # of the pool, and of the cluster: the pool must hold back before the cluster does
LORA_STEPS = 600  # long enough for a checkpoint to reach S3
CONFIG = TINY | {
    "lora_adapter": {
        "rank": 2,
        "training": {"steps": LORA_STEPS, "checkpoint_every": 10},
        "early_stopping": {"validate_every": 0},
    }
}
PREFIX = "lake/in_pods"  # bucket and folder
BACKFILL_SECONDS, TERMINATION_SECONDS = 900, 120
SECONDS_BETWEEN_LOOKS_INTO_S3 = 0.5
RUN = None
"""What the pod of a run itself has instead of the name of a step."""


class Story:
    """One deployment and its faults, after a backfill that met them."""

    def __init__(self, deployment: Deployment, lake: Lake) -> None:
        self.deployment, self.lake = deployment, lake
        self.cluster, self.instance = deployment.api.cluster, deployment.instance
        self._domains: dict[str, str] = {}
        self.overload = [
            ApiFault(self.creates(TEXTBOOK, "clean_corpus"), Status(500), times=2),
            ApiFault(_reads_a_status, Status(429, retry_after_seconds=1), times=2),
            ApiFault(_reads_a_status, Status(500)),
            ApiFault(_reads_a_status, LostAnswer()),
        ]
        self.silence = ApiFault(self.creates(PAPERS, "signatures"), Silence(12))
        self.refusal = ApiFault(self.creates(TEXTBOOK, "deduped_corpus"), Status(429, retry_after_seconds=1))
        self.lost_answer = ApiFault(self.creates(PAPERS, "deduped_corpus"), LostAnswer())
        self.training_killed = PodFault(self._has_a_checkpoint_in_s3(TEXTBOOK))
        self.run_killed = PodFault(self._runs_papers_while_a_step_works)
        self.evicted = PodFault(self._has_a_checkpoint_in_s3(WEB), ending=Ending.EVICTED)
        deployment.api.faults += [*self.overload, self.silence, self.refusal, self.lost_answer]
        self.cluster.faults += [self.training_killed, self.run_killed, self.evicted]
        deployment.wait_for_backfill(deployment.backfill("per_domain_chain", DOMAINS), BACKFILL_SECONDS)

    def pods(self, domain: str, step: str | None) -> list[Pod]:
        """Pods of a step, or of the runs themselves, in the order in which they were made."""
        return [
            pod
            for pod in list(self.cluster.pods_ever)
            if pod.labels.get("dagster/op") == step and self.domain(pod.labels) == domain
        ]

    def events(self, domain: str, kind: DagsterEventType) -> list[tuple[str | None, float]]:
        """(step, time) of each event of one kind in the runs of a domain."""
        return [
            (entry.step_key, entry.timestamp)
            for run in self.deployment.runs(domain)
            for entry in self.deployment.log(run)
            if entry.dagster_event is not None and entry.dagster_event.event_type is kind
        ]

    def creates(self, domain: str, step: str) -> Callable[[Call], bool]:
        """Whether a call creates the Job of this step."""
        return lambda call: call.labels.get("dagster/op") == step and self.domain(call.labels) == domain

    def domain(self, labels: Mapping[str, str]) -> str:
        """The domain of the run that a Job or pod belongs to."""
        run_id = labels["dagster/run-id"]
        if run_id not in self._domains:
            run = self.instance.get_run_by_id(run_id)
            assert run is not None
            self._domains[run_id] = run.tags["dagster/partition"]
        return self._domains[run_id]

    def _has_a_checkpoint_in_s3(self, domain: str) -> Callable[[Pod], bool]:
        """Whether a pod trains the adapter of a domain and could go on from somewhere else."""
        last_look = 0.0

        def matches(pod: Pod) -> bool:
            nonlocal last_look
            if pod not in self.pods(domain, "lora_adapter"):
                return False
            if time.monotonic() - last_look < SECONDS_BETWEEN_LOOKS_INTO_S3:
                return False
            last_look = time.monotonic()
            work = open_uri(f"{self.lake.uri}/_work/lora_adapter/{domain}", self.lake.endpoint_url)
            with contextlib.suppress(FileNotFoundError):  # the adapter was published between two looks
                return any("safetensors" in state.read_text() for state in work.glob("*/*/state.json"))
            return False

        return matches

    def _runs_papers_while_a_step_works(self, pod: Pod) -> bool:
        steps = self.pods(PAPERS, "clean_corpus")
        return pod in self.pods(PAPERS, RUN) and any(step.phase == "Running" for step in steps)


def _reads_a_status(call: Call) -> bool:
    return call.path.endswith("/status")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> dict[str, str]:
    """What the code is told, here and in pods."""
    config = tmp_path_factory.mktemp("config") / "pipeline.yaml"
    config.write_text(yaml.safe_dump(CONFIG | {"endpoint_url": s3_endpoint}))
    return {
        "YUNMIN_CONFIG": str(config),
        "YUNMIN_RAW": f"s3://{PREFIX}/raw",
        "YUNMIN_LAKE": f"s3://{PREFIX}/lake",
        "YUNMIN_EXECUTOR": "kubernetes",
    }


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str, variables: dict[str, str]
) -> Iterator[Story]:
    """A backfill that has met its faults and come to its end."""
    home = tmp_path_factory.mktemp("in_pods")
    write_sample_corpus(home / "sample", documents_per_domain=120)
    raw = open_uri(f"s3://{PREFIX}/raw", s3_endpoint)

    def deliver(domain: str) -> None:
        for path in (home / "sample").glob(f"{domain}.*"):
            raw.fs.put_file(str(path), (raw / path.name).path)

    deliver(FIRST_DOMAIN)
    upstream = ["raw_corpus", "clean_corpus", "signatures", "duplicate_clusters", "deduped_corpus"]
    materialize(home / "beforehand", variables, FIRST_DOMAIN, [*upstream, *GLOBAL_MODELS])
    (home / "dagster").mkdir()
    cluster = Cluster(home, working_directory=REPOSITORY, gpus=GPUS)
    with (
        cluster.running(),
        ApiServer(cluster) as api,
        deployed(home / "dagster", api, variables, GPU_LIMIT) as deployment,
    ):
        deployment.stop_sensor("raw_data_sensor")  # it would start the same runs
        deployment.instance.add_dynamic_partitions("domain", DOMAINS)
        for domain in DOMAINS:
            deliver(domain)
        yield Story(deployment, Lake(uri=variables["YUNMIN_LAKE"], endpoint_url=s3_endpoint))


pytestmark = pytest.mark.timeout(BACKFILL_SECONDS + 300)


def test_every_domain_of_the_backfill_completes_and_its_snapshots_are_whole(story: Story) -> None:
    for domain in DOMAINS:
        assert story.deployment.runs(domain)[-1].status is DagsterRunStatus.SUCCESS, domain
        made = Counter(step for step, _ in story.events(domain, DagsterEventType.ASSET_MATERIALIZATION))
        assert set(made) == CHAIN
        for asset in CHAIN - OVER_ALL_DOMAINS:
            assert story.lake.current(asset, domain).verify() == []


def test_every_fault_was_met(story: Story) -> None:
    faults: list[ApiFault | PodFault] = [*story.deployment.api.faults, *story.cluster.faults]
    assert [len(fault.met) for fault in faults] == [fault.times for fault in faults]


def test_steps_on_a_gpu_run_in_pods_with_one_and_no_others_do(story: Story) -> None:
    assert {pod.labels.get("dagster/op") for pod in story.cluster.pods_ever} == CHAIN | {RUN}
    for pod in story.cluster.pods_ever:
        assert pod.gpus == (1 if pod.labels.get("dagster/op") in ON_GPU else 0), pod.name


def test_no_more_steps_are_on_a_gpu_at_once_than_the_pool_allows(story: Story) -> None:
    changes = [
        (time, 1 if kind is DagsterEventType.STEP_START else -1)
        for domain in DOMAINS
        for kind in (
            DagsterEventType.STEP_START,
            DagsterEventType.STEP_SUCCESS,
            DagsterEventType.STEP_FAILURE,
        )
        for step, time in story.events(domain, kind)
        if step in ON_GPU
    ]
    changes += [(_end_of(pod), -1) for pod in (*story.training_killed.met, *story.evicted.met)]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    assert most == GPU_LIMIT  # no more, and the pool did have to hold back


def test_training_goes_on_from_its_checkpoint_and_ends_with_the_same_adapter(
    story: Story, variables: dict[str, str], tmp_path: Path
) -> None:
    killed, resumed = story.pods(TEXTBOOK, "lora_adapter")
    assert killed is story.training_killed.met[0]
    assert "steps, " in resumed.output and f"{LORA_STEPS} of {LORA_STEPS} steps" not in resumed.output
    undisturbed = Lake(uri=f"s3://{PREFIX}/undisturbed", endpoint_url=story.lake.endpoint_url)
    source, target = (open_uri(lake.uri, lake.endpoint_url) for lake in (story.lake, undisturbed))
    for asset in ("base_model", "parquet_shards"):
        source.fs.copy(f"{source.path}/{asset}", f"{target.path}/{asset}", recursive=True)
    materialize(tmp_path / "home", variables | {"YUNMIN_LAKE": undisturbed.uri}, TEXTBOOK, ["lora_adapter"])
    adapters = [lake.current("lora_adapter", TEXTBOOK) for lake in (story.lake, undisturbed)]
    assert adapters[0].folder.name != adapters[1].folder.name
    assert adapters[0].content_hash == adapters[1].content_hash


def test_checkpoints_are_removed_when_their_asset_is_published(story: Story) -> None:
    work = open_uri(f"{story.lake.uri}/_work", story.lake.endpoint_url)
    assert work.fs.find(work.path) == []


def test_a_run_whose_pod_dies_is_resumed_and_its_step_goes_on_meanwhile(story: Story) -> None:
    first, second, *_ = story.pods(PAPERS, RUN)
    assert first is story.run_killed.met[0]
    assert first.labels["dagster/run-id"] == second.labels["dagster/run-id"]
    assert len(story.pods(PAPERS, "clean_corpus")) == 1


def test_training_on_a_spot_machine_that_is_taken_back_goes_on_elsewhere(story: Story) -> None:
    evicted, resumed = story.pods(WEB, "lora_adapter")
    assert evicted is story.evicted.met[0]
    assert "steps, " in resumed.output and f"{LORA_STEPS} of {LORA_STEPS} steps" not in resumed.output
    assert len(story.pods(WEB, RUN)) == 1


def test_an_overloaded_server_costs_time_only(story: Story) -> None:
    assert len(story.pods(TEXTBOOK, "clean_corpus")) == 1
    assert len(story.pods(PAPERS, "signatures")) == 1


def test_a_run_that_cannot_start_a_step_is_retried_from_where_it_was(story: Story) -> None:
    """Dagster does not repeat a call refused with 429, nor survive the loss of its answer: the next run goes on."""
    for domain in (TEXTBOOK, PAPERS):
        first, second = story.deployment.runs(domain)
        assert (first.status, second.status) == (DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS)
        assert second.parent_run_id == first.run_id
        times_done = Counter(step for step, _ in story.events(domain, DagsterEventType.STEP_SUCCESS))
        assert times_done == dict.fromkeys(CHAIN, 1)


def test_terminating_a_run_ends_its_step_and_removes_its_jobs_and_pods(story: Story) -> None:
    deployment, wait = story.deployment, story.deployment.server.wait
    pointer = open_uri(f"{story.lake.uri}/lora_adapter/{PAPERS}/current.json", story.lake.endpoint_url)
    pointer.unlink()  # so that there is something to do
    run = deployment.launch("per_domain_chain", PAPERS, ["lora_adapter"])

    def of_run() -> list[Pod]:
        return [pod for pod in list(story.cluster.pods.values()) if pod.labels["dagster/run-id"] == run]

    def trains() -> bool:
        return any(pod.gpus and "STEP_START" in pod.output for pod in of_run())

    wait("training", trains, TERMINATION_SECONDS)
    deployment.terminate(run)
    wait("the end of its pods", lambda: not of_run(), TERMINATION_SECONDS)
    jobs = list(story.cluster.jobs.values())
    assert not [job for job in jobs if job["metadata"]["labels"]["dagster/run-id"] == run]
    ended = deployment.instance.get_run_by_id(run)
    assert ended is not None and ended.status is DagsterRunStatus.CANCELED
    assert story.lake.find("lora_adapter", PAPERS) is None


def _end_of(pod: Pod) -> float:
    finished = pod.shown["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
    return datetime.fromisoformat(finished).timestamp()

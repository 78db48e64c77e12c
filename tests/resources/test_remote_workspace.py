"""What a step had done survives the pod it ran in: real processes, killed, on a real S3 protocol."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resources import remote_workspace
from resources.lake import Lake
from resources.remote_workspace import mirrored_folder
from tests.conftest import REPOSITORY
from tests.s3_proxy import Proxy

PATIENCE_SECONDS = 60.0
STEPS = 200


@pytest.fixture
def lake(s3_endpoint: str, tmp_path: Path) -> Lake:
    uri = f"s3://lake/{uuid.uuid4().hex}"
    return Lake(uri=uri, endpoint_url=s3_endpoint, cache=str(tmp_path / "cache"))


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_workspace, "SECONDS_BETWEEN_PASSES", 0.02)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def objects(lake: Lake) -> list[str]:
    """Every key below the lake's work folder."""
    root = lake._root / "_work"
    return sorted(root.fs.find(root.path))


ADD_UP = textwrap.dedent(
    """
    # Adds up the numbers below STEPS, with a checkpoint after each and a line in a journal.
    import json, sys, time
    from dagster import asset, materialize
    from resources import remote_workspace
    from resources.lake import Lake
    from resources.publishing import Outcome, Step, publish

    uri, endpoint, cache, steps, pause, between_passes = sys.argv[1:]
    remote_workspace.SECONDS_BETWEEN_PASSES = float(between_passes)
    lake = Lake(uri=uri, endpoint_url=endpoint, cache=cache)

    @asset(code_version="1")
    def total(context):
        step = Step(context, lake, {})

        def compute(folder):
            work = step.workspace()
            checkpoint, journal = work / "checkpoint.json", work / "journal" / "steps.txt"
            journal.parent.mkdir(exist_ok=True)
            state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "sum": 0}
            print("begins at", state["step"], flush=True)
            while state["step"] < int(steps):
                with journal.open("a") as file:
                    file.write(f"{state['step']}\\n")
                state = {"step": state["step"] + 1, "sum": state["sum"] + state["step"]}
                part = work / "checkpoint.json.part"
                part.write_text(json.dumps(state))
                part.rename(checkpoint)
                print("did", state["step"], flush=True)
                time.sleep(float(pause))
            (folder / "sum").write_text(str(state["sum"]))
            (folder / "steps").write_text("".join(sorted(set(journal.read_text().split()), key=int)))
            return Outcome({})

        yield from publish(step, compute)

    materialize([total])
    """
)


class Pod:
    """A process with a home and a cache of its own that vanish with it."""

    def __init__(self, lake: Lake, home: Path, *, pause: float, between_passes: float) -> None:
        home.mkdir()
        arguments = [
            lake.uri,
            str(lake.endpoint_url),
            str(home / "cache"),
            str(STEPS),
            str(pause),
            str(between_passes),
        ]
        environment = os.environ | {"HOME": str(home), "TMPDIR": str(home), "DAGSTER_HOME": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ADD_UP, *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self) -> Iterator[str]:
        """What it says, line by line."""
        assert self.process.stdout is not None
        return (line.strip() for line in self.process.stdout)

    def end(self, with_signal: signal.Signals) -> None:
        """Send a signal and wait."""
        self.process.send_signal(with_signal)
        self.process.communicate()


def begun_at(pod: Pod) -> int:
    """The step a pod began at, once it is through."""
    said = list(pod.lines())
    assert pod.process.wait() == 0, pod.process.communicate()[1]
    return int(said[0].removeprefix("begins at "))


def require_right_sum(lake: Lake) -> None:
    published = lake.current("total").local
    assert int((published / "sum").read_text()) == sum(range(STEPS))
    assert (published / "steps").read_text() == "".join(map(str, range(STEPS)))


def test_a_killed_pod_is_taken_up_by_another_with_another_home(lake: Lake, tmp_path: Path) -> None:
    killed = Pod(lake, tmp_path / "first", pause=0.2, between_passes=0.05)  # 40 s of work, and soon killed
    wait_until(lambda: any(key.endswith("state.json") for key in objects(lake)))
    killed.end(signal.SIGKILL)
    began = begun_at(Pod(lake, tmp_path / "second", pause=0, between_passes=0.05))
    assert 0 < began < STEPS
    require_right_sum(lake)
    assert objects(lake) == [], "what was published needs no checkpoint"
    assert not list((tmp_path / "second" / "cache").rglob("checkpoint.json"))


def test_a_pod_that_is_told_to_end_mirrors_all_it_did_before_it_goes(lake: Lake, tmp_path: Path) -> None:
    evicted = Pod(lake, tmp_path / "first", pause=0.02, between_passes=3600)
    for line in evicted.lines():
        if line == "did 20":
            break
    evicted.end(signal.SIGTERM)
    assert begun_at(Pod(lake, tmp_path / "second", pause=0, between_passes=3600)) >= 20
    require_right_sum(lake)


def test_what_is_remote_is_always_the_folder_of_one_moment(lake: Lake, tmp_path: Path, often: None) -> None:
    """A part's data is written in place and its marker renamed from a file that is older: parts come and go."""
    seen = set()
    with lake.workspace("perplexity", "law", "f") as folder:
        for number in range(150):
            (folder / "marker.part").write_text(str(number))
            (folder / f"data-{number}").write_text(str(number) * 1000)
            (folder / "marker.part").rename(folder / "marker")
            (folder / f"data-{number - 2}").unlink(missing_ok=True)
            if number % 5 == 4:
                other = tmp_path / f"reader-{number}"
                with mirrored_folder(lake._work("perplexity", "law") / "f", other) as copy:
                    names = {path.name for path in copy.iterdir()}
                    assert not any(name.endswith(".part") for name in names)
                    if "marker" in names:
                        current = (copy / "marker").read_text()
                        assert (copy / f"data-{current}").read_text() == current * 1000
                        seen.add(current)
    assert len(seen) > 3


def test_an_attempt_that_was_given_up_but_lives_on_does_not_mix_its_files_with_its_successors(
    lake: Lake, often: None
) -> None:
    with pytest.raises(InterruptedError), lake.workspace("lora_adapter", "law", "f") as given_up:
        (given_up / "checkpoint").write_text("step 3")
        wait_until(lambda: any(key.endswith("state.json") for key in objects(lake)))
        with pytest.raises(InterruptedError), lake.workspace("lora_adapter", "law", "f") as successor:
            assert (successor / "checkpoint").read_text() == "step 3"
            (successor / "checkpoint").write_text("step 4 of the successor")
            (given_up / "checkpoint").write_text("step 9 of who was given up")
            raise InterruptedError
        raise InterruptedError
    with lake.workspace("lora_adapter", "law", "f") as folder:
        assert (folder / "checkpoint").read_text() == "step 4 of the successor"


def test_another_computation_that_is_published_leaves_checkpoints_alone(lake: Lake, often: None) -> None:
    with pytest.raises(InterruptedError), lake.workspace("lora_adapter", "law", "mine") as folder:
        for number in range(5):
            (folder / f"shard-{number}").write_text("x")
        wait_until(lambda: any(key.endswith("state.json") for key in objects(lake)))
        with lake.workspace("lora_adapter", "law", "theirs") as theirs:
            (theirs / "checkpoint").write_text("x")
            wait_until(lambda: any("/theirs/" in key for key in objects(lake)))
        lake.drop_workspace("lora_adapter", "law", "theirs")
        (folder / "checkpoint").write_text("step 1000")
        raise InterruptedError
    assert not [key for key in objects(lake) if "/theirs/" in key]
    with lake.workspace("lora_adapter", "law", "mine") as folder:
        assert len(list(folder.iterdir())) == 6


def test_a_damaged_checkpoint_that_was_removed_does_not_come_back(lake: Lake) -> None:
    """The attempt that removes it fails before the first pass of its mirror, and leaves an empty folder."""
    with pytest.raises(InterruptedError), lake.workspace("lora_adapter", "law", "f") as folder:
        (folder / "checkpoint").write_text("damaged")
        raise InterruptedError
    with pytest.raises(InterruptedError), lake.workspace("lora_adapter", "law", "f") as folder:
        (folder / "checkpoint").unlink()
        raise InterruptedError
    with lake.workspace("lora_adapter", "law", "f") as folder:
        assert not list(folder.iterdir())


def test_a_file_that_is_always_changed_in_place_is_warned_of_and_does_not_pile_up(
    lake: Lake, often: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_workspace, "SECONDS_BEFORE_WARNING", 0.5)
    most = 0
    with caplog.at_level(logging.WARNING), lake.workspace("duplicate_clusters", None, "f") as folder:
        (folder / "components.npz").write_text("x")
        with changing_in_place(folder / "filled-in-place"):
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not (uploads(lake) > 9 and "call scratch *.tmp" in caplog.text):
                most = max(most, len(objects(lake)))
                assert time.monotonic() < deadline, caplog.text
        assert most <= 4, (
            "a state, the whole file, and of the changing one what is stored and what is uploaded"
        )
        wait_until(lambda: any(key.endswith("state.json") for key in objects(lake)))
    assert "filled-in-place changed in place while uploaded" in caplog.text


@contextlib.contextmanager
def changing_in_place(path: Path) -> Iterator[None]:
    """A file that another thread writes into all the time."""
    path.write_bytes(bytes(1_000_000))
    ended = threading.Event()

    def write() -> None:
        with path.open("r+b", buffering=0) as file:
            while not ended.is_set():
                file.seek(0)
                file.write(os.urandom(8))
                time.sleep(0.0005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()


def uploads(lake: Lake) -> int:
    """How many objects a mirror has uploaded, to judge by the number of the newest."""
    names = [key.split("/")[-1] for key in objects(lake) if "/files/" in key]
    return int(max(names, default="0"))


def test_scratch_is_not_mirrored(lake: Lake) -> None:
    with pytest.raises(InterruptedError), lake.workspace("duplicate_clusters", None, "f") as folder:
        (folder / "paragraphs-x.tmp").mkdir()
        for name in (
            "shingles.uint64.tmp",
            "paragraphs-x.tmp/run-0",
            "config.json.part",
            "0.lock",
            "tmp",
            "part",
        ):
            (folder / name).write_text("x")
        raise InterruptedError
    with lake.workspace("duplicate_clusters", None, "f") as folder:
        assert {path.name for path in folder.iterdir()} == {"tmp", "part"}, "names of domains"


def test_a_folder_at_rest_is_not_linked_again(
    lake: Lake, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lake.workspace("lora_adapter", "law", "f") as folder:
        (folder / "checkpoint.part").write_text("step 3")
        (folder / "checkpoint.part").rename(folder / "checkpoint")
        wait_until(lambda: any(key.endswith("state.json") for key in objects(lake)))
        links: list[Path] = []
        monkeypatch.setattr(remote_workspace, "_link_all", lambda folder, to: links.append(to))
        time.sleep(0.5)
        assert not links
        (folder / "checkpoint").write_text("step 4, which is longer")
        wait_until(lambda: bool(links))


def test_an_attempt_whose_objects_are_gone_is_passed_over(
    lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("older", "newer"):
        with pytest.raises(InterruptedError), lake.workspace("lora_adapter", "law", "f") as folder:
            (folder / "checkpoint").write_text(text)
            raise InterruptedError
    newest = max(key for key in objects(lake) if "/files/" in key)
    lake._root.fs.rm_file(newest)
    with caplog.at_level(logging.WARNING), lake.workspace("lora_adapter", "law", "f") as folder:
        assert (folder / "checkpoint").read_text() == "older"
    passed_over = newest.split("/")[-3]
    assert f"{passed_over} are passed over: files of its state are gone" in caplog.text


def test_what_the_step_replaced_or_removed_does_not_stay_on_s3(lake: Lake, often: None) -> None:
    with pytest.raises(InterruptedError), lake.workspace("lora_adapter", "law", "f") as folder:
        for number in range(5):
            (folder / "checkpoint").write_text(f"step {number}")
            (folder / f"{number}.lock").touch()
            time.sleep(0.05)
        (folder / "other").write_text("x")
        (folder / "other").unlink()
        raise InterruptedError
    state, kept = [key for key in objects(lake)][::-1]
    assert state.endswith("/state.json")
    assert "/files/" in kept
    assert list(json.loads(lake._root.fs.cat_file(state))) == ["checkpoint"]


def test_a_store_that_does_not_answer_is_warned_of_and_does_not_end_the_step(
    lake: Lake, proxy: Proxy, often: None, caplog: pytest.LogCaptureFixture
) -> None:
    behind = Lake(uri=lake.uri, endpoint_url=proxy.url, cache=lake.cache)
    with pytest.raises(InterruptedError), behind.workspace("lora_adapter", "law", "f") as folder:
        proxy.status = 403
        (folder / "checkpoint").write_text("step 3")
        with caplog.at_level(logging.WARNING):
            wait_until(lambda: "could not be mirrored" in caplog.text)
        proxy.status = None
        raise InterruptedError
    with lake.workspace("lora_adapter", "law", "f") as folder:
        assert (folder / "checkpoint").read_text() == "step 3"

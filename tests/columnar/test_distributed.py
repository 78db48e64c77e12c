"""Data-parallel training in real processes (gloo): killed, and gone on with on other numbers of ranks."""

import json
import shutil
import socket
import subprocess
import sys
import time
from itertools import chain, islice
from pathlib import Path

import pytest

from yunmin_assets.columnar import PackedDataset

SCRIPT = Path(__file__).with_name("ranks_that_train.py")
REPOSITORY = Path(__file__).resolve().parents[2]
STEPS, KILLED_AFTER = 70, 20  # an epoch of the data set has 47 steps
ENDLESS = 10**6
DEADLINE_SECONDS = 120


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def start(world_size, data, run, steps):
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), str(world_size), port, data, run, str(steps)],
            env={"PYTHONPATH": str(REPOSITORY), "PATH": "", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world_size)
    ]


def start_with_accelerate(world_size, data, run, steps):
    """What `accelerate launch` and `torchrun` do."""
    together = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(run)}
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT.with_name("ranks_with_accelerate.py"), data, run, str(steps)],
            env={**environment, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world_size)
    ]


def finish(processes):
    for process in processes:
        assert process.wait(DEADLINE_SECONDS) == 0


def lines(run, world_size, rank):
    """What a rank has logged; its last line may be cut by the kill."""
    text = (run / f"{world_size}-{rank}.jsonl").read_text() if run.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def global_batches(run, world_size):
    """Step → the rows of all ranks in the order of their positions."""
    ranks = [
        {line["step"]: line["rows"] for line in lines(run, world_size, rank)} for rank in range(world_size)
    ]
    return {
        step: list(chain.from_iterable(zip(*(rank[step] for rank in ranks), strict=True)))
        for step in set.intersection(*map(set, ranks))
    }


def losses(run, world_size):
    return {line["step"]: line["loss"] for line in lines(run, world_size, 0)}


@pytest.fixture(scope="module")
def killed(packed, tmp_path_factory):
    """The folder of a run of two ranks that were killed in the middle of a step."""
    run = tmp_path_factory.mktemp("killed")
    processes = start(2, packed, run, ENDLESS)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while any(
        not (run / f"2-{rank}.jsonl").exists() or len(lines(run, 2, rank)) < KILLED_AFTER for rank in range(2)
    ):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.005)
    for process in processes:
        process.kill()
        process.wait()
    return run


@pytest.fixture(scope="module")
def uninterrupted(packed):
    """Global batches of a loop that nobody disturbs, in one process, without torch.distributed."""
    batches = PackedDataset(packed, batch_size=8, window_pages=11, epochs=None)
    return [batch["input_ids"].tolist() for batch in islice(batches, 2000)]


@pytest.fixture(scope="module")
def resumed(packed, killed, tmp_path_factory):
    """World size → folder of a run that went on from the killed one."""
    runs = {}
    for world_size in (1, 4):
        runs[world_size] = tmp_path_factory.mktemp("resumed") / str(world_size)
        shutil.copytree(killed, runs[world_size])
        resumed_at = json.loads((killed / "state.json").read_text())["step"]
        finish(start(world_size, packed, runs[world_size], resumed_at + STEPS))
    return runs


def test_two_ranks_together_get_the_batches_of_one(killed, uninterrupted):
    found = global_batches(killed, 2)
    assert len(found) >= KILLED_AFTER
    for step, rows in found.items():
        assert rows == uninterrupted[step]


@pytest.mark.parametrize("world_size", [1, 4])
def test_a_killed_run_goes_on_with_the_same_global_batches_on_other_ranks(
    killed, resumed, uninterrupted, world_size
):
    resumed_at = json.loads((killed / "state.json").read_text())["step"]
    found = global_batches(resumed[world_size], world_size)
    assert sorted(found) == list(range(resumed_at, resumed_at + STEPS))
    for step, rows in found.items():
        assert rows == uninterrupted[step]


def test_the_training_itself_goes_on_alike(resumed):
    one, four = losses(resumed[1], 1), losses(resumed[4], 4)
    assert len(one) == STEPS
    assert one == pytest.approx(four, rel=1e-4)


def test_under_accelerate_ranks_get_the_same_global_batches_and_one_process_goes_on(
    packed, uninterrupted, tmp_path
):
    steps = 60  # an epoch has 47
    finish(start_with_accelerate(2, packed, tmp_path, steps))
    told = [lines(tmp_path, 2, rank) for rank in range(2)]
    for warned, *_ in told:
        assert "world_size is 1, but 2 processes train together" in warned[0]
    (tmp_path / "saved.json").rename(tmp_path / "state.json")
    finish(start_with_accelerate(1, packed, tmp_path, steps))
    warned, *one = lines(tmp_path, 1, 0)
    assert warned == []
    shares = zip(*([line["rows"] for line in rank[1:]] for rank in told), strict=True)
    together = [list(chain.from_iterable(zip(*share, strict=True))) for share in shares]
    assert together == uninterrupted[:steps]
    resumed_at = steps // 2 + 1
    assert [line["rows"] for line in one] == uninterrupted[resumed_at : resumed_at + steps]

"""Training runs and merges in real processes that are killed, or find the disk full, at a chosen moment.

The processes are forked from a server that has imported everything already: a start takes no time.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.language_model.toy import one_thread
from yunmin_assets.columnar import PackedDataset
from yunmin_assets.dem import AdapterJob, blocks, merge_checkpoints, run_adapter_job
from yunmin_assets.dem.adapter import train_adapter
from yunmin_assets.dem.adapter_job import validation_of
from yunmin_assets.language_model.checkpoint import FILE_NAME, read_state
from yunmin_assets.language_model.ranks import ALONE

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.dem.disasters"])
FEWER_BYTES_THAN_A_CHECKPOINT = 20_000


class Interrupted:
    """Batches that do something before the batch of a step is given out."""

    def __init__(self, job: AdapterJob, step: int, disaster: Callable[[], None]):
        training = job.config.training
        (folder,) = job.train.values()
        self.batches = PackedDataset(folder, training.batch_size, training.seed, epochs=None)
        self.step, self.disaster = step, disaster
        self.state_dict, self.load_state_dict = self.batches.state_dict, self.batches.load_state_dict
        state = read_state(job.checkpoints)
        self.first = len(state["result"]["losses"]) if state else 0

    def __iter__(self) -> Iterator[Any]:
        for step, batch in enumerate(self.batches, self.first):
            if step == self.step:
                self.disaster()
            yield batch


def in_another_process(target: Callable[..., None], *arguments: Any) -> int:
    """Run a function of this module in a process; its exit status, negative when a signal ended it."""
    process = SERVER.Process(target=target, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def killed_before(job: AdapterJob, step: int) -> None:
    """SIGKILL, as the kernel sends it when memory runs out, before a step."""
    _train(job, step, _kill)


def killed_while_writing(job: AdapterJob, step: int) -> None:
    """The kernel ends the process in the middle of the first checkpoint written after a step begins."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it and gets an error instead
        _limit_files()

    _train(job, step, limit)


def killed_before_renaming(job: AdapterJob, step: int) -> None:
    """SIGKILL when a checkpoint is complete under its temporary name."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(arguments[1]).endswith(FILE_NAME):
            _kill()

    _train(job, step, lambda: sys.addaudithook(watch))


def on_a_full_disk(job: AdapterJob, step: int, answer: Any) -> None:
    """No file may grow to a whole checkpoint once a step begins; sends the error's message."""
    try:
        _train(job, step, _limit_files)
    except OSError as error:
        answer.send(str(error))


def by_two_processes(job: AdapterJob) -> None:
    """Training by two processes more."""
    run_adapter_job(job, processes=2)


def merging(
    base: Path, diffs: Mapping[str, Path], weights: Mapping[str, float], out: Path, work: Path | None
) -> None:
    """A merge in blocks so small that it takes a while."""
    blocks.BLOCK_ELEMENTS = 1024
    merge_checkpoints(base, diffs, weights, out, work_dir=work)


def killed_after_shards(count: int, *merge: Any) -> None:
    """SIGKILL when so many shards of a merge have got their name."""
    names: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(arguments[1]).endswith(".safetensors"):
            if len(names) == count:
                _kill()
            names.append(str(arguments[1]))

    sys.addaudithook(watch)
    merging(*merge)


def killed_at(moment: float, target: Callable[..., None], *arguments: Any) -> bool:
    """End a function of this module in a process with SIGKILL after so many seconds; whether it was still running."""
    process = SERVER.Process(target=target, args=arguments)
    process.start()
    process.join(moment)
    assert process.exitcode in (0, None)
    process.kill()
    process.join()
    return process.exitcode != 0


def _train(job: AdapterJob, step: int, disaster: Callable[[], Any]) -> None:
    with one_thread():
        train_adapter(
            job.base,
            Interrupted(job, step, disaster),
            job.config,
            job.out,
            job.checkpoints,
            validation=validation_of(job, ALONE),
        )


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FEWER_BYTES_THAN_A_CHECKPOINT, resource.RLIM_INFINITY))


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

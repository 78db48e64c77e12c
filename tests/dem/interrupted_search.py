"""A weight search in a process of its own, killed when it has come to a chosen point."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.dem.conftest import LORA, Trained
from tests.language_model.toy import one_thread, packed_rows, toy_texts
from yunmin_assets.dem import Spent, WeightsConfig, search_weights
from yunmin_assets.dem.search_journal import JOURNAL_FILE
from yunmin_assets.dem.summary import write_search
from yunmin_assets.language_model import load_tokenizer

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.dem.interrupted_search"])
SECONDS = 60.0


def validation_rows(base: Path, rows: int = 24) -> dict[str, list[dict[str, Any]]]:
    """One batch of other sentences per toy domain."""
    tokenizer = load_tokenizer(base)
    batches = {}
    for domain in ("food", "law", "travel"):
        packed = packed_rows(tokenizer, toy_texts(domain, 600)[60:])[:rows]
        batches[domain] = [{"input_ids": packed[:, :-1], "labels": packed[:, 1:]}]
    return batches


def run_search(trained: Trained, config: WeightsConfig, work: Path, out: Path) -> None:
    """A search with all controls, written to `out`."""
    with one_thread():
        found = search_weights(
            trained.base,
            trained.diffs,
            validation_rows(trained.base),
            config,
            training_costs={domain: Spent(1000, 1.0) for domain in trained.diffs},
            joint=trained.diffs["law"],
            joint_cost=Spent(3000, 3.0),
            control=LORA,
            work_dir=work,
        )
    write_search(found, out)


def killed_when(
    has_come: Callable[[Path], bool], trained: Trained, config: WeightsConfig, work: Path
) -> None:
    """Start a search and send it SIGKILL as soon as its work folder says so."""
    process = SERVER.Process(target=run_search, args=(trained, config, work, work.with_suffix(".json")))
    process.start()
    deadline = time.monotonic() + SECONDS
    while not has_come(work):
        assert process.is_alive() and time.monotonic() < deadline, "the search ended before it was killed"
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def journal_lines(work: Path) -> int:
    path = work / JOURNAL_FILE
    return path.read_bytes().count(b"\n") if path.exists() else 0

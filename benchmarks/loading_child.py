"""One loader, once, in a process of its own: `python -m benchmarks.loading_child`. `loading` starts it.

    write   the rows in the loader's format
    speed   one epoch: CPU, clock, memory, bytes read
    order   one epoch: which rows come when; then the first batch of new loaders, at several positions

Memory is over that of a process that has imported torch. A few batches come before what is timed, so that
imports and compilation are not in the figures.
"""

import argparse
import faulthandler
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401  memory is counted from here on
from numpy.typing import NDArray

from benchmarks.loading_data import open_rows, row_numbers, spread_of_batches
from benchmarks.loading_peers import PEERS
from benchmarks.loading_readers import BATCH_ROWS, OURS, PLAIN, Batch, Loader
from benchmarks.measure import measured, memory_mb, versions

LOADERS: dict[str, Loader] = {**OURS, **PLAIN, **PEERS}
WARM_UP_BATCHES = 64
FIRST_BATCHES = 5
RESUMES = 10
MILLISECONDS = 1000
LONGEST_SECONDS_OF_PEER = 600

Report = dict[str, Any]


def main() -> None:
    """Print a report as JSON, or which package is absent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["write", "speed", "order"])
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    loader = LOADERS[arguments.loader]
    if arguments.loader in PEERS:
        faulthandler.dump_traceback_later(LONGEST_SECONDS_OF_PEER, exit=True)  # one that hangs is reported
    actions: dict[str, Callable[[Loader, Path], Report]] = {"write": write, "speed": speed, "order": order}
    try:
        report = actions[arguments.action](loader, arguments.folder)
    except ModuleNotFoundError as missing:
        report = {"absent": missing.name}
    print("\n" + json.dumps(report))


def write(loader: Loader, folder: Path) -> Report:
    """Write the rows in the loader's format."""
    _, cost = measured(lambda: loader.write(folder, folder / loader.data))
    return {"write_cpu_s": cost.cpu_s, "stored_bytes": stored_bytes(folder / loader.data)}


def speed(loader: Loader, folder: Path) -> Report:
    """Read one epoch and throw it away."""
    before = {"rss_of_torch_mb": memory_mb("VmRSS"), "anonymous_of_torch_mb": memory_mb("RssAnon")}
    path = folder / loader.data
    _warm_up(loader, path)
    bytes_before = bytes_read()
    rows, cost = measured(lambda: sum(len(batch) for batch in loader.read(path, 0)))
    return {
        "rows": rows,
        **asdict(cost),
        **before,
        "bytes_read": bytes_read() - bytes_before,
        "stored_bytes": stored_bytes(path),
        "versions": versions(loader.packages),
    }


def order(loader: Loader, folder: Path) -> Report:
    """The order of the rows, and how soon a batch is there."""
    path = folder / loader.data
    delivered = np.concatenate([_numbers(batch) for batch in loader.read(path, 0)])
    rows = len(open_rows(folder))
    every_row_once = len(delivered) == rows and bool((np.sort(delivered) == np.arange(rows)).all())
    first = [_first_batch(loader, path, 0)[1] for _ in range(FIRST_BATCHES)]
    return {
        "every_row_once": every_row_once,
        "b512": spread_of_batches(delivered) if every_row_once else None,
        "first_batch_ms": statistics.median(first),
        **(_resume(loader, path, delivered) if loader.resumes else {}),
    }


def _resume(loader: Loader, path: Path, delivered: NDArray[np.int64]) -> Report:
    """Begin at random positions; compare with what an undisturbed epoch delivered there."""
    positions = np.random.default_rng(0).integers(1, len(delivered) - BATCH_ROWS, RESUMES).tolist()
    found = [(position, *_first_batch(loader, path, position)) for position in positions]
    return {
        "resume_ms": statistics.median(milliseconds for _, _, milliseconds in found),
        "resume_is_exact": all(
            np.array_equal(numbers, delivered[position : position + len(numbers)])
            for position, numbers, _ in found
        ),
    }


def _first_batch(loader: Loader, path: Path, start: int) -> tuple[NDArray[np.int64], float]:
    """Numbers of the rows of the first batch, and milliseconds from opening the data set to having it."""
    began = time.perf_counter()
    batches: Iterator[Batch] = loader.read(path, start)
    batch = next(batches)
    milliseconds = MILLISECONDS * (time.perf_counter() - began)
    numbers = _numbers(batch)
    batches.close()  # type: ignore[attr-defined]  # they are generators
    return numbers, milliseconds


def _numbers(batch: Batch) -> NDArray[np.int64]:
    return row_numbers(batch[:, :2].numpy())


def _warm_up(loader: Loader, path: Path) -> None:
    batches = loader.read(path, 0)
    for _ in itertools.islice(batches, WARM_UP_BATCHES):
        pass
    batches.close()  # type: ignore[attr-defined]


def bytes_read() -> int:
    """Bytes that this process has read by system calls so far; pages of mapped files are not among them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def stored_bytes(path: Path) -> int:
    """Size of a file, or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()

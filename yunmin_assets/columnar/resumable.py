"""What the data sets of this package share: arguments, the state, and standing in for one of several workers.

The state says after which row of which epoch a data set stands, and all that the order depends on. It is the
same on every rank, and any number of ranks may go on from it.

Inside a `DataLoader` worker it names the worker as well: worker w of W prepares the steps w, w + W, …, so a
worker's state is of use to the same worker only. `StatefulDataLoader` gives it back to that one. The original
of the workers' copies never moves: it knows that workers deliver, from a byte in shared memory, and refuses
to say where it stands.
"""

import operator
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, get_worker_info
from upath import UPath

from yunmin_assets.columnar.batches import PackedBatch
from yunmin_assets.columnar.reading_order import ORDER_VERSION
from yunmin_assets.columnar.steps import Step, Steps

ENDLESS = 2**62
"""Rows of an epoch that never ends."""
PICKLED_IDENTITY = "identity"


class Arguments(NamedTuple):
    """What every data set is told; see `PackedDataset`."""

    batch_size: int
    seed: int
    rank: int
    world_size: int
    window_pages: int
    lanes: int

    def checked(self) -> "Arguments":
        """The same, as Python's own whole numbers.

        Raises:
            ValueError: names the first that is none, or does not fit the others.
        """
        found = Arguments(*(_whole_number(name, value) for name, value in self._asdict().items()))
        problems = {
            "batch_size must be 1 or more": found.batch_size < 1,
            "seed must be 0 or more": found.seed < 0,
            "window_pages must be 1 or more": found.window_pages < 1,
            f"rank {found.rank} is not below world_size {found.world_size}": not (
                0 <= found.rank < found.world_size
            ),
        }
        for problem, is_found in problems.items():
            if is_found:
                raise ValueError(problem)
        if found.lanes < 1 or found.lanes % found.world_size:
            raise ValueError(
                f"world_size {found.world_size} does not divide the {found.lanes} lanes: choose lanes as a "
                "multiple of it"
            )
        if found.batch_size % found.world_size:
            raise ValueError(
                f"batch_size {found.batch_size} counts the rows of all ranks together and must be a multiple of "
                f"world_size {found.world_size}"
            )
        return found


class ResumableDataset(IterableDataset[PackedBatch]):
    """Keeps the place in the order; what the order is, subclasses say."""

    OPENED: tuple[str, ...]
    """Names of the attributes that `_open` sets."""

    def __init__(self, arguments: Arguments, epochs: int | None):
        self._arguments, self._epochs = arguments.checked(), epochs
        self._epoch_rows = self._open()
        self._epoch = self._samples = 0
        self._resumed_worker: tuple[int, int] | None = None
        self._next_loop: tuple[int, int, tuple[int, int] | None] | None = None
        self._is_read_by_workers = torch.zeros(1, dtype=torch.bool).share_memory_()
        if self._arguments.world_size == 1:
            _warn_of_other_processes()

    @abstractmethod
    def _open(self) -> int:
        """Open the files; returns the rows of an epoch."""

    def _identity(self) -> dict[str, Any]:
        """All that the order depends on, as JSON values; subclasses add theirs."""
        names = ("seed", "window_pages", "lanes")
        return {"order": ORDER_VERSION, **{name: getattr(self._arguments, name) for name in names}}

    @abstractmethod
    def _description(self) -> str:
        """What is read, in a few words."""

    def __repr__(self) -> str:
        """Names the data, its size, and this process's part in reading it."""
        arguments = ", ".join(f"{name}={value}" for name, value in self._arguments._asdict().items())
        return f"{type(self).__name__}({self._description()}, {arguments})"

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay behind: a worker process that is spawned opens its own."""
        kept = {name: value for name, value in vars(self).items() if name not in self.OPENED}
        return {**kept, PICKLED_IDENTITY: self._identity()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the files anew.

        Raises:
            ValueError: they hold another data set now.
        """
        identity = state.pop(PICKLED_IDENTITY)
        vars(self).update(state)
        if not self._is_read_by_workers.is_shared():  # a copy of its own, not one sent to a worker
            self._is_read_by_workers = torch.zeros(1, dtype=torch.bool).share_memory_()
        self._open()
        if self._identity() != identity:
            raise ValueError(
                f"{self!r} is not the data set that was pickled, but was put in its place: open it anew"
            )

    def set_epoch(self, epoch: int) -> None:
        """Go on to the beginning of an epoch; does nothing when this data set stands in it, or beyond.

        Only needed with the worker processes of a `DataLoader`: they are given a copy of this data set, so
        the original never moves.
        """
        if epoch > self._epoch:
            self._move(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where this data set stands, under 1 KB of JSON values, the same on every rank.

        `samples` counts the rows that all ranks together were given in this epoch.

        Raises:
            RuntimeError: worker processes of a `DataLoader` deliver the rows.
        """
        if get_worker_info() is None and self._is_read_by_workers.item():
            raise RuntimeError(
                "DataLoader workers read copies of this data set, so it does not know how far they are: use "
                "torchdata's StatefulDataLoader and its state_dict(), or a loop without workers"
            )
        state = {**self._identity(), "epoch": self._epoch, "samples": self._samples}
        if self._resumed_worker is not None:
            state["worker"], state["workers"] = self._resumed_worker
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where another loader stood, on any number of ranks and with any batch size.

        Raises:
            ValueError: the state belongs to another data set or another order, or is out of range.
        """
        if not isinstance(state, Mapping):
            raise ValueError(f"cannot resume: {state!r} is not what state_dict() gave")
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise ValueError(
                    f"cannot resume: {name} is {state.get(name)!r} in the state, but {own!r} in this data set"
                )
        numbers = {name: state.get(name) for name in ("epoch", "samples")}
        if "workers" in state:
            numbers |= {name: state.get(name) for name in ("worker", "workers")}
        for name, value in numbers.items():
            if type(value) is not int:
                raise ValueError(f"cannot resume: {name} is {value!r} in the state, not a whole number")
        epoch, samples = state["epoch"], state["samples"]
        last_epoch = 0 if self._epoch_rows == ENDLESS else ENDLESS
        if not (0 <= epoch <= last_epoch and 0 <= samples <= self._epoch_rows):
            raise ValueError(f"state out of range: epoch {epoch}, {samples} of {self._epoch_rows} samples")
        self._move(epoch, samples, (state["worker"], state["workers"]) if "workers" in state else None)

    def _move(self, epoch: int, samples: int, worker: tuple[int, int] | None = None) -> None:
        """Stand at a place that somebody chose."""
        self._epoch, self._samples, self._resumed_worker = epoch, samples, worker
        self._next_loop = None
        self._is_read_by_workers[0] = False

    def _steps(self) -> Steps:
        """The steps from the present place to the end of the loop."""
        is_worker = get_worker_info() is not None
        if self._next_loop is not None:
            self._epoch, self._samples, self._resumed_worker = self._next_loop
        end = None if self._epochs is None else (self._epoch // self._epochs + 1) * self._epochs
        self._is_read_by_workers[0] = is_worker
        if is_worker:  # It may live longer than the loop, and has read ahead: begin where all workers do.
            here = self._epoch, self._samples, self._resumed_worker
            self._next_loop = here if end is None else (end, 0, None)
        turn, turns = self._turn()
        return Steps(
            self._epoch,
            self._samples,
            end,
            self._epoch_rows,
            self._arguments.batch_size,
            self._arguments.rank,
            self._arguments.world_size,
            turn,
            turns,
        )

    def _turn(self) -> tuple[int, int]:
        info = get_worker_info()
        own = (info.id, info.num_workers) if info else None
        if self._resumed_worker is None:
            return own or (0, 1)
        if self._resumed_worker != own:
            worker, workers = self._resumed_worker
            raise ValueError(
                f"cannot resume: the state is that of DataLoader worker {worker} of {workers}; "
                "load it with the same number of workers"
            )
        return own[1] - 1, own[1]  # the other workers' steps come first

    def _has_delivered(self, step: Step) -> None:
        self._epoch, self._samples = step.epoch, step.end
        info = get_worker_info()
        self._resumed_worker = (info.id, info.num_workers) if info else None

    def _has_finished(self, end_epoch: int | None) -> None:
        if end_epoch is not None:
            self._epoch, self._samples, self._resumed_worker = end_epoch, 0, None


def _whole_number(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} is {value!r}, not a whole number") from error


def _warn_of_other_processes() -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    processes = torch.distributed.get_world_size()
    if processes > 1:
        warnings.warn(
            f"world_size is 1, but {processes} processes train together: each that loops over this data set is "
            "given all rows. Pass rank and world_size, unless one process reads for the others.",
            stacklevel=4,
        )


def is_remote(path: Path | UPath | str) -> bool:
    """Whether a path leads out of the local file system."""
    return "://" in str(path)


def located(paths: Iterable[Path | UPath | str], remote: Mapping[str, Any]) -> list[Path | UPath | str]:
    """Paths of data sets, `~` replaced by the home folder.

    Raises:
        ValueError: there are options for remote paths, and all are local.
    """
    paths = list(paths)
    if remote and not any(map(is_remote, paths)):
        raise ValueError(f"remote has options for a remote path, but {paths[0]} is a local one: leave it out")
    return [path if is_remote(path) else Path(str(path)).expanduser() for path in paths]

"""What the data sets of this package share: arguments, the state, and standing in for one of several workers.

The state says after which row of which epoch a data set stands, and all that the order depends on. It is the
same on every rank, and any number of ranks may go on from it.

Inside a `DataLoader` worker it names the worker as well: worker w of W prepares the steps w, w + W, …, so a
worker's state is of use to the same worker only. `StatefulDataLoader` gives it back to that one.
"""

from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from yunmin_assets.columnar.batches import PackedBatch
from yunmin_assets.columnar.steps import Step, Steps

ENDLESS = 2**62
"""Rows of an epoch that never ends."""


class ResumableDataset(IterableDataset[PackedBatch]):
    """Keeps the place in the order; what the order is, subclasses say."""

    def __init__(self, batch_size: int, rank: int, world_size: int, epochs: int | None, epoch_rows: int):
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._epochs, self._epoch_rows = epochs, epoch_rows
        self._epoch = self._samples = 0
        self._resumed_worker: tuple[int, int] | None = None

    def _identity(self) -> dict[str, Any]:
        """All that the order depends on, as JSON values."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Go on to the beginning of an epoch; does nothing when this data set stands in it, or beyond.

        Only needed with the worker processes of a `DataLoader`: they are given a copy of this data set, so
        the original never moves.
        """
        if epoch > self._epoch:
            self._epoch, self._samples, self._resumed_worker = epoch, 0, None

    def state_dict(self) -> dict[str, Any]:
        """Where this data set stands, under 1 KB of JSON values, the same on every rank.

        `samples` counts the rows that all ranks together were given in this epoch.
        """
        state = {**self._identity(), "epoch": self._epoch, "samples": self._samples}
        if self._resumed_worker is not None:
            state["worker"], state["workers"] = self._resumed_worker
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where another loader stood, on any number of ranks and with any batch size.

        Raises:
            ValueError: the state belongs to another data set or another order, or is out of range.
        """
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise ValueError(
                    f"cannot resume: {name} is {state.get(name)!r} in the state, but {own!r} in this data set"
                )
        epoch, samples = state["epoch"], state["samples"]
        if epoch < 0 or not 0 <= samples <= self._epoch_rows:
            raise ValueError(f"state out of range: epoch {epoch}, {samples} of {self._epoch_rows} samples")
        self._epoch, self._samples = epoch, samples
        self._resumed_worker = (state["worker"], state["workers"]) if "workers" in state else None

    def _steps(self) -> Steps:
        """The steps from the present place to the end of the loop."""
        end = None if self._epochs is None else (self._epoch // self._epochs + 1) * self._epochs
        turn, turns = self._turn()
        return Steps(
            self._epoch,
            self._samples,
            end,
            self._epoch_rows,
            self._batch_size,
            self._rank,
            self._world_size,
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


def check_arguments(
    batch_size: int, seed: int, rank: int, world_size: int, window_pages: int, lanes: int
) -> None:
    """Refuse arguments that do not fit together.

    Raises:
        ValueError: names the first that does not.
    """
    problems = {
        "batch_size must be 1 or more": batch_size < 1,
        "seed must be 0 or more": seed < 0,
        "window_pages must be 1 or more": window_pages < 1,
        f"rank {rank} is not below world_size {world_size}": not 0 <= rank < world_size,
    }
    for problem, found in problems.items():
        if found:
            raise ValueError(problem)
    if lanes < 1 or lanes % world_size:
        raise ValueError(
            f"world_size {world_size} does not divide the {lanes} lanes: choose lanes as a multiple of it"
        )
    if batch_size % world_size:
        raise ValueError(
            f"batch_size {batch_size} counts the rows of all ranks together and must be a multiple of "
            f"world_size {world_size}"
        )

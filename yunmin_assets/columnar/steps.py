"""The steps of a loop over a data set, and the part that one process has in them.

All processes agree on the steps; each is a run of positions of an epoch. Of the ranks that train together
each takes every world_size-th position of a step. Of the worker processes of one `DataLoader` each prepares
every workers-th step, so that the steps come out in the same order with any number of workers.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 64
"""About so many rows are taken together: fewer make more work in Python, more do not stay in the CPU's cache."""


class Step(NamedTuple):
    """Positions start … end - 1 of an epoch."""

    epoch: int
    start: int
    end: int


@dataclass(frozen=True)
class Steps:
    """The steps from a place on, as one process sees them."""

    epoch: int
    position: int
    """Where to begin in that epoch."""
    end_epoch: int | None
    """The loop ends before this epoch; None for an endless loop."""
    rows: int
    """Rows of an epoch; without a bound for an endless one."""
    batch_size: int
    rank: int
    world_size: int
    turn: int = 0
    """This process prepares the steps turn, turn + turns, turn + 2 × turns, …"""
    turns: int = 1

    def __iter__(self) -> Iterator[Step]:
        """The steps that this process takes part in."""
        return itertools.islice(self._all(), self.turn, None, self.turns)

    def runs(self) -> Iterator[list[Step]]:
        """The same steps in runs whose rows are taken together, the first one alone so that it comes at once."""
        steps, size = iter(self), 1
        largest = max(1, ROWS_AT_ONCE * self.world_size // self.batch_size)
        while run := list(itertools.islice(steps, size)):
            yield run
            size = min(2 * size, largest)

    def count(self, step: Step) -> int:
        """How many rows of a step this process delivers."""
        return len(range(self._first(step.start), step.end, self.world_size))

    def positions(self, epoch: int, start: int, end: int) -> NDArray[np.int64]:
        """Which of the positions start … end - 1 of an epoch this process delivers, ascending."""
        found = np.arange(self._first(start), end, self.world_size)
        return found if self.turns == 1 else found[self.is_own(epoch, found)]

    def is_own(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each of some positions of an epoch whether this process delivers it."""
        is_own = positions % self.world_size == self.rank
        if self.turns > 1:
            step = self._steps_before(epoch) + (positions - self._origin(epoch)) // self.batch_size
            is_own &= step % self.turns == self.turn
        return is_own

    def _all(self) -> Iterator[Step]:
        epoch = self.epoch
        while epoch != self.end_epoch:
            for start in range(self._origin(epoch), self.rows, self.batch_size):
                yield Step(epoch, start, min(start + self.batch_size, self.rows))
            epoch += 1

    def _first(self, start: int) -> int:
        return start + (self.rank - start) % self.world_size

    def _origin(self, epoch: int) -> int:
        """Where the first step of an epoch begins."""
        assert epoch >= self.epoch, "an epoch before the first one"
        return self.position if epoch == self.epoch else 0

    def _steps_before(self, epoch: int) -> int:
        """Steps from the first one to the beginning of an epoch."""
        assert epoch >= self.epoch, "an epoch before the first one"
        if epoch == self.epoch:
            return 0
        first, others = self.rows - self.position, self.rows
        return -(-first // self.batch_size) + (epoch - self.epoch - 1) * -(-others // self.batch_size)

"""Which pages a process reads, in which order, and when each of their rows is delivered.

Within a window pages come in the order in which their first rows are wanted, so the first batch needs the
pages of its own rows only. Pages without a row for this process are left out.

Price: 12 bytes per row of the window being planned.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yunmin_assets.columnar.reading_order import ReadingOrder, Window

NOT_OURS = -1
GROUPS_OF_WINDOW = 8
LARGEST_GROUP = 16
"""Pages of a group: more save work in Python, fewer do not keep the one who waits for a row waiting."""

Share = Callable[[int, int, int], NDArray[np.int64]]
"""(epoch, start, end) → those positions of start … end - 1 that this process delivers, ascending."""


@dataclass(frozen=True)
class PageGroup:
    """Pages of one window that are read together."""

    window_pages: NDArray[np.int64]
    """[pages of the window] all that this process reads of it, in order."""
    window_rows: int
    """How many rows of the window this process delivers."""
    first: int
    """Place in `window_pages` of the first page of this group."""
    turns: list[NDArray[np.int32]]
    """Per page of this group, [rows of the page]: when each row is delivered, counted from the beginning of
    the window, or NOT_OURS."""
    row_counts: list[int]
    """Per page of this group: how many of its rows this process delivers."""

    @property
    def pages(self) -> list[int]:
        """The pages of this group."""
        return self.window_pages[self.first : self.first + len(self.turns)].tolist()


def page_groups(
    order: ReadingOrder, share: Share, *, epoch: int, position: int, end_epoch: int | None
) -> Iterator[PageGroup]:
    """From a position of an epoch on to the end of epoch `end_epoch` - 1, or for ever."""
    total_rows = int(order.page_rows.sum(dtype=np.int64))
    while epoch != end_epoch:
        epoch_order = order.epoch(epoch)
        while position < total_rows:
            window = epoch_order.window_at(position)
            positions = share(epoch, position, window.end)
            if len(positions):
                yield from _groups_of_window(order.page_rows, window, window.slots[positions - window.start])
            position = window.end
        epoch, position = epoch + 1, 0


def _groups_of_window(
    page_rows: NDArray[np.int32], window: Window, rows: NDArray[np.int64]
) -> Iterator[PageGroup]:
    """`rows`: which rows are delivered, in turn, counted over the window's pages."""
    ends = np.cumsum(page_rows[window.pages])
    begins = ends - page_rows[window.pages]
    turn_of_row = np.full(ends[-1], NOT_OURS, np.int32)
    turn_of_row[rows] = np.arange(len(rows), dtype=np.int32)
    is_ours = turn_of_row != NOT_OURS
    counts = np.add.reduceat(is_ours, begins, dtype=np.int64)
    first_turns = np.minimum.reduceat(np.where(is_ours, turn_of_row, len(rows)), begins)
    by_need = np.argsort(first_turns, kind="stable")[: np.count_nonzero(counts)]
    window_pages, size = window.pages[by_need], max(1, min(LARGEST_GROUP, len(by_need) // GROUPS_OF_WINDOW))
    for first in range(0, len(by_need), size):
        group = by_need[first : first + size]
        yield PageGroup(
            window_pages,
            len(rows),
            first,
            turns=[turn_of_row[begins[page] : ends[page]] for page in group.tolist()],
            row_counts=counts[group].tolist(),
        )

"""The order in which an epoch's rows are delivered, as a pure function of (seed, epoch, page sizes).

1. The pages are permuted and cut into windows of `window_pages`. Only one window is in memory at a time.
   Where single pages are dear to fetch, whole blocks of consecutive pages are permuted instead.
2. A window's rows are dealt to `lanes` lanes, each a contiguous run of the window's pages, and permuted
   within each lane. The lanes take turns: place t of the window goes to lane t mod `lanes`.
3. Position i of the epoch goes to rank i mod world size.

The order does not depend on the number of ranks, and any position can be found without walking there. When
the world size divides `lanes`, a rank's rows of a window come from its own lanes, so it reads only their
pages (and shares at most one page with each neighbour). Without shuffling, rows come as they are stored.

Price: 8 bytes per page and epoch, and 8 per row of the current window.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yunmin_assets.columnar.shuffling import PAGE_ORDER, ROW_ORDER, permutation

ORDER_VERSION = 1
"""Stands in the state of a data set. Change it when the order changes, here, in mixing or in shuffling."""


@dataclass(frozen=True)
class Window:
    """A run of positions whose rows come from one set of pages."""

    start: int
    """Position in the epoch of its first row."""
    pages: NDArray[np.int64]
    slots: NDArray[np.int64]
    """[rows] for each position from `start` on: which row, counted over `pages` laid one after the other."""

    @property
    def end(self) -> int:
        """Position after its last row."""
        return self.start + len(self.slots)


@dataclass(frozen=True)
class ReadingOrder:
    """How an epoch goes through pages of `page_rows` rows each."""

    page_rows: NDArray[np.int32]
    seed: int
    shuffle: bool
    window_pages: int
    lanes: int
    blocks: NDArray[np.int64] | None = None
    """First page of each block that is kept together, the first one 0; None permutes single pages."""

    def epoch(self, epoch: int) -> "EpochOrder":
        """The order of one epoch."""
        pages = len(self.page_rows)
        order = self._page_order(epoch) if self.shuffle else np.arange(pages)
        last_pages = np.append(np.arange(self.window_pages, pages, self.window_pages), pages) - 1
        ends = np.cumsum(self.page_rows[order], dtype=np.int64)[last_pages]
        return EpochOrder(self, epoch, order, ends)

    def _page_order(self, epoch: int) -> NDArray[np.int64]:
        key, pages = (PAGE_ORDER, epoch), len(self.page_rows)
        if self.blocks is None:
            return permutation(pages, self.seed, key)
        ends = np.append(self.blocks[1:], pages)
        order = permutation(len(self.blocks), self.seed, key)
        return np.concatenate([np.arange(self.blocks[block], ends[block]) for block in order])


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch; see the module's text."""

    rule: ReadingOrder
    number: int
    pages: NDArray[np.int64]
    window_ends: NDArray[np.int64]

    def window_at(self, position: int) -> Window:
        """The window that holds a position, 0 ≤ position < rows of the data set."""
        number = int(np.searchsorted(self.window_ends, position, side="right"))
        start = int(self.window_ends[number - 1]) if number else 0
        rows = int(self.window_ends[number]) - start
        first_page = number * self.rule.window_pages
        pages = self.pages[first_page : first_page + self.rule.window_pages]
        return Window(start, pages, self._slots(number, rows))

    def _slots(self, window: int, rows: int) -> NDArray[np.int64]:
        if not self.rule.shuffle:
            return np.arange(rows)
        slots, dealt = np.empty(rows, np.int64), 0
        for lane in range(self.rule.lanes):
            turns = slots[lane :: self.rule.lanes]
            key = (ROW_ORDER, self.number, window, lane)
            turns[:] = dealt + permutation(len(turns), self.rule.seed, key)
            dealt += len(turns)
        return slots

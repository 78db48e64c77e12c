"""The rows that one process delivers of one data set, in order, read ahead by a thread.

One window of rows is in memory, never more. A row's memory is free as soon as the row was taken, and the next
window's pages are read into it: while window n is delivered, window n + 1 fills up behind it. Pages are read
in the order in which their first rows are wanted, so the first batch needs the pages of its own rows only,
and from one window to the next there is no pause.

    tokens   . 7 . 3 9 . 8 1     slots: rows of window n not yet taken, freed slots (.)
               ↑ rows of window n + 1 go wherever a slot is free

Reading and decompressing release Python's global lock, so the thread works while the process trains.

Price: tokens of the window, and seq_len / 8 bytes per row for the document starts.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from yunmin_assets.columnar.packed_store import PackedStore, PageBuffer
from yunmin_assets.columnar.reading_order import ReadingOrder, Window

ADVISED_PAGES = 64
"""The store hears so many pages ahead what will be read."""
GROUPS_OF_WINDOW = 8
LARGEST_GROUP = 32
"""So many pages are read between two looks at what is free: fewer wake-ups cost less time."""
NOT_READ = -1

Share = Callable[[int, int, int], NDArray[np.int64]]
"""(epoch, start, end) → those positions of start … end - 1 that this process delivers, ascending."""


class Rows(NamedTuple):
    """Rows taken from a stream."""

    tokens: NDArray
    """uint16 or uint32 [rows, seq_len + 1]"""
    start_bits: NDArray[np.uint8]
    """[rows, seq_len / 8] whether a document starts at each input position, as `numpy.packbits` has it."""
    domains: NDArray[np.uint16] | None
    """[rows] places in the store's `domains`; None when there is only one."""


@dataclass
class _OpenWindow:
    """A window of which rows are in memory."""

    slot_of_turn: NDArray[np.intp]
    """[rows that this process delivers] where each is in memory, or NOT_READ."""
    taken: int = 0


class _PageRows(NamedTuple):
    """A page to read and what this process delivers of it."""

    page: int
    turns: NDArray[np.int32]
    """[rows] when each is delivered, counted from the beginning of its window, or NOT_READ: by others."""
    own_count: int
    """How many rows this process delivers."""


class RowStream:
    """The rows from a position on; `take` gives the next ones.

    Close it, or use it in a `with` statement: it owns a thread. A failure of the thread is raised by `take`.
    """

    def __init__(
        self,
        store: PackedStore,
        order: ReadingOrder,
        share: Share,
        *,
        epoch: int,
        position: int,
        end_epoch: int | None,
    ):
        """Begin at a position of an epoch and go on to the end of epoch `end_epoch` - 1, or for ever."""
        manifest = store.manifest
        self._store, self._share = store, share
        self._seq_len = manifest.seq_len
        slots = min(manifest.rows, order.window_pages * int(store.page_rows.max()))
        # Memory of slots that are never used is never touched, so it costs nothing.
        self._tokens = np.empty((slots, manifest.seq_len + 1), manifest.token_type)
        self._start_bits = np.empty((slots, -(-manifest.seq_len // 8)), np.uint8)
        self._domains = np.empty(slots, np.uint16)
        self._free = np.arange(slots)[::-1].copy()  # a stack: the lowest slots are used first
        self._free_count = slots
        self._windows: deque[_OpenWindow] = deque()
        self._row_limit = 0
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._is_stopping = self._is_awaited = False
        self._process = os.getpid()
        arguments = (order, epoch, position, end_epoch)
        self._thread = threading.Thread(target=self._run, args=arguments, name="page-reader", daemon=True)
        self._thread.start()

    def take(self, count: int) -> Rows:
        """The next `count` rows; there must be so many.

        Raises:
            DamagedFileError: a page's bytes are not those that were written.
        """
        pieces: list[Rows] = []
        while count > 0 or not pieces:
            pieces.append(self._take_from_window(count))
            count -= len(pieces[-1].tokens)
        return pieces[0] if len(pieces) == 1 else _joined(pieces)

    def close(self) -> None:
        """Stop reading ahead."""
        if os.getpid() != self._process:
            return  # forked: the thread stayed with the parent
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> "RowStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_from_window(self, count: int) -> Rows:
        """Up to `count` rows of the first window that is open."""
        slots = self._slots_of_next_rows(count) if count else np.empty(0, np.intp)
        rows = Rows(
            self._tokens.take(slots, axis=0),
            self._start_bits.take(slots, axis=0),
            self._domains[slots] if len(self._store.domains) > 1 else None,
        )
        with self._changed:
            self._free[self._free_count : self._free_count + len(slots)] = slots
            self._free_count += len(slots)
            self._changed.notify()
        return rows

    def _slots_of_next_rows(self, count: int) -> NDArray[np.intp]:
        with self._changed:
            while True:
                if self._windows:
                    window = self._windows[0]
                    slots = window.slot_of_turn[window.taken : window.taken + count]
                    if slots.min() != NOT_READ:
                        break
                if self._failure is not None:
                    raise self._failure
                self._is_awaited = True
                self._changed.wait()
                self._is_awaited = False
            window.taken += len(slots)
            if window.taken == len(window.slot_of_turn):
                self._windows.popleft()
            return slots

    def _run(self, order: ReadingOrder, epoch: int, position: int, end_epoch: int | None) -> None:
        """What the thread does."""
        buffer = self._store.buffer()
        try:
            for window, pages in self._pages_to_read(order, epoch, position, end_epoch):
                slots = self._free_slots(sum(page.own_count for page in pages))
                if slots is None:
                    return
                self._read(window, pages, slots, buffer)
        except BaseException as failure:  # whatever it is, `take` raises it
            with self._changed:
                self._failure = failure
                self._changed.notify()

    def _pages_to_read(
        self, order: ReadingOrder, epoch: int, position: int, end_epoch: int | None
    ) -> Iterator[tuple[_OpenWindow, list[_PageRows]]]:
        """Some pages of a window at a time."""
        while epoch != end_epoch:
            epoch_order = order.epoch(epoch)
            while position < self._store.manifest.rows:
                window = epoch_order.window_at(position)
                positions = self._share(epoch, position, window.end)
                if len(positions):
                    yield from self._pages_of_window(window, window.slots[positions - window.start])
                position = window.end
            epoch, position = epoch + 1, 0

    def _pages_of_window(
        self, window: Window, rows: NDArray[np.int64]
    ) -> Iterator[tuple[_OpenWindow, list[_PageRows]]]:
        """`rows`: which rows are delivered, in turn, counted over the window's pages."""
        page_rows = self._store.page_rows[window.pages]
        ends = np.cumsum(page_rows)
        begins = ends - page_rows
        turn_of_row = np.full(ends[-1], NOT_READ, np.int32)
        turn_of_row[rows] = np.arange(len(rows), dtype=np.int32)
        is_mine = turn_of_row != NOT_READ
        counts = np.add.reduceat(is_mine, begins, dtype=np.int64)
        first_turns = np.minimum.reduceat(np.where(is_mine, turn_of_row, len(rows)), begins)
        by_need = np.argsort(first_turns, kind="stable")[: np.count_nonzero(counts)]
        fields = (window.pages[by_need], begins[by_need], ends[by_need], counts[by_need])
        pages = [
            _PageRows(page, turn_of_row[begin:end], count)
            for page, begin, end, count in zip(*(field.tolist() for field in fields), strict=True)
        ]
        opened = _OpenWindow(np.full(len(rows), NOT_READ, np.intp))
        with self._changed:
            self._windows.append(opened)
            self._row_limit = len(rows)
        group = max(1, min(LARGEST_GROUP, len(pages) // GROUPS_OF_WINDOW))
        advised = 0
        for start in range(0, len(pages), group):
            if start + ADVISED_PAGES > advised:
                self._store.will_need(fields[0][advised : advised + 2 * ADVISED_PAGES])
                advised += 2 * ADVISED_PAGES
            yield opened, pages[start : start + group]

    def _free_slots(self, count: int) -> NDArray[np.intp] | None:
        """Take free slots, when the rows in memory are fewer than those of a window; None to stop."""
        with self._changed:
            while len(self._free) - self._free_count + count > self._row_limit and not self._is_stopping:
                self._changed.wait()
            if self._is_stopping:
                return None
            self._free_count -= count
            return self._free[self._free_count : self._free_count + count].copy()

    def _read(
        self, window: _OpenWindow, pages: list[_PageRows], slots: NDArray[np.intp], buffer: PageBuffer
    ) -> None:
        """Read pages into `slots` and say so: after each page when somebody waits, else after the last."""
        read, said = 0, 0
        turns = np.concatenate([page.turns for page in pages])
        turns = turns[turns != NOT_READ]
        for page in pages:
            self._read_page(page, slots[read : read + page.own_count], buffer)
            read += page.own_count
            if self._is_awaited or read == len(slots):
                with self._changed:
                    window.slot_of_turn[turns[said:read]] = slots[said:read]
                    self._changed.notify()
                said = read

    def _read_page(self, wanted: _PageRows, slots: NDArray[np.intp], buffer: PageBuffer) -> None:
        tokens, starts, domains = self._store.read_page(wanted.page, buffer)
        is_start = np.zeros((len(tokens), self._seq_len), np.bool_)
        is_start.reshape(-1)[starts] = True
        start_bits = np.packbits(is_start, axis=1)
        if wanted.own_count < len(tokens):
            mine = wanted.turns != NOT_READ
            tokens, start_bits = tokens[mine], start_bits[mine]
            domains = None if domains is None else domains[mine]
        self._tokens[slots] = tokens
        self._start_bits[slots] = start_bits
        if domains is not None:
            self._domains[slots] = domains


def _joined(pieces: list[Rows]) -> Rows:
    domains = [piece.domains for piece in pieces if piece.domains is not None]
    return Rows(
        np.concatenate([piece.tokens for piece in pieces]),
        np.concatenate([piece.start_bits for piece in pieces]),
        np.concatenate(domains) if domains else None,
    )

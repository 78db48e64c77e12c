"""The rows that one process delivers of one data set, in order, read ahead.

One window of rows is in memory, never more. A row's memory is free as soon as the row was taken, and the next
window's pages are read into it: while window n is delivered, window n + 1 fills up behind it, so there is no
pause from one window to the next.

    tokens   . 7 . 3 9 . 8 1     slots: rows of window n not yet taken, freed slots (.)
               ↑ rows of window n + 1 go wherever a slot is free

Who reads? From a local disk whoever takes rows, some pages with each batch, while the kernel fetches the pages
behind them. Where a read may wait for a network, a thread: it goes on while the process trains. Where reads do
not wait the thread is a burden: it and its owner queue for Python's lock, for twice the CPU and half the speed.

Price: tokens of the window, and seq_len / 8 bytes per row for the document starts.
"""

import os
import threading
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from yunmin_assets.columnar.packed_store import PackedStore
from yunmin_assets.columnar.page_plan import NOT_OURS, PageGroup, Share, page_groups
from yunmin_assets.columnar.reading_order import ReadingOrder

ADVISED_PAGES = 64
"""The store hears at least so many pages ahead what will be read."""
ROWS_READ_PER_ROW_TAKEN = 2
"""Whoever takes rows reads so many ahead, until the window is full."""
NOT_READ = -1


class Rows(NamedTuple):
    """Rows taken from a stream."""

    tokens: NDArray
    """uint16 or uint32 [rows, seq_len + 1]"""
    start_bits: NDArray[np.uint8]
    """[rows, seq_len / 8] whether a document starts at each input position, as `numpy.packbits` has it."""
    padding: NDArray[np.uint32]
    """[rows] how many tokens at each row's end are padding."""
    domains: NDArray[np.uint16] | None
    """[rows] places in the store's `domains`; None when there is only one."""


@dataclass
class _OpenWindow:
    """A window of which rows are in memory."""

    slot_of_turn: NDArray[np.intp]
    """[rows that this process delivers] where each is in memory, or NOT_READ."""
    taken: int = 0


class RowStream:
    """The rows from a position on; `take` gives the next ones.

    Close it, or use it in a `with` statement: it may own a thread. A failure of the thread is raised by `take`.
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
        has_thread: bool,
    ):
        """Begin at a position of an epoch and go on to the end of epoch `end_epoch` - 1, or for ever."""
        manifest = store.manifest
        self._store = store
        self._seq_len = manifest.seq_len
        self._has_domains = len(store.domains) > 1
        slots = min(manifest.rows, order.window_pages * int(store.page_rows.max()))
        # Memory of slots that are never used is never touched, so it costs nothing.
        self._tokens = np.empty((slots, manifest.seq_len + 1), manifest.token_type)
        self._start_bits = np.empty((slots, -(-manifest.seq_len // 8)), np.uint8)
        self._padding = np.zeros(slots, np.uint32)  # and again whenever rows were taken
        self._domains = np.empty(slots, np.uint16)
        self._free = np.arange(slots)[::-1].copy()  # a stack: the lowest slots are used first
        self._free_count = slots
        self._windows: deque[_OpenWindow] = deque()
        self._row_limit = 0
        self._groups = page_groups(order, share, epoch=epoch, position=position, end_epoch=end_epoch)
        self._next_group: PageGroup | None = None
        self._advised_pages = 0
        self._rows_to_read = 0
        self._buffer = store.buffer()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._is_stopping = self._is_awaited = False
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        if has_thread:
            self._thread = threading.Thread(target=self._read_all, name="page-reader", daemon=True)
            self._thread.start()

    def take(self, count: int) -> Rows:
        """The next `count` rows; there must be so many.

        Raises:
            DamagedFileError: a page's bytes are not those that were written.
        """
        if self._thread is None:
            self._read_ahead()
        pieces: list[Rows] = []
        while count > 0 or not pieces:
            pieces.append(self._take_from_window(count))
            count -= len(pieces[-1].tokens)
        return pieces[0] if len(pieces) == 1 else _joined(pieces)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._thread is None or os.getpid() != self._process:
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
            self._padding.take(slots),
            self._domains[slots] if self._has_domains else None,
        )
        self._padding[slots] = 0
        with self._changed:
            self._free[self._free_count : self._free_count + len(slots)] = slots
            self._free_count += len(slots)
            self._rows_to_read += ROWS_READ_PER_ROW_TAKEN * len(slots)
            self._changed.notify()
        return rows

    def _slots_of_next_rows(self, count: int) -> NDArray[np.intp]:
        with self._changed:
            while (slots := self._slots_in_memory(count)) is None:
                if self._thread is None:
                    self._read_needed()
                else:
                    self._await_thread()
            window = self._windows[0]
            window.taken += len(slots)
            if window.taken == len(window.slot_of_turn):
                self._windows.popleft()
            return slots

    def _slots_in_memory(self, count: int) -> NDArray[np.intp] | None:
        """Slots of up to `count` next rows of the first window; None when one of them was not read yet."""
        if not self._windows:
            return None
        window = self._windows[0]
        slots = window.slot_of_turn[window.taken : window.taken + count]
        return None if slots.min() == NOT_READ else slots

    def _read_needed(self) -> None:
        """Read the next pages. There is room: rows that are wanted next are read before any others."""
        group = self._peek()
        if group is None:
            raise IndexError("more rows were asked for than there are")
        self._read(group)

    def _read_ahead(self) -> None:
        """Read about twice as many rows as were taken since the last call, as far as there is room."""
        while self._rows_to_read > 0:
            group = self._peek()
            if group is None or not self._has_room(group):
                self._rows_to_read = 0
                return
            self._read(group)
            self._rows_to_read -= sum(group.row_counts)

    def _await_thread(self) -> None:
        """Wait until the thread has read something; the lock is held."""
        if self._failure is not None:
            raise self._failure
        self._is_awaited = True
        self._changed.wait()
        self._is_awaited = False

    def _read_all(self) -> None:
        """What the thread does."""
        try:
            while (group := self._peek()) is not None:
                with self._changed:
                    while not self._is_stopping and not self._has_room(group):
                        self._changed.wait()
                if self._is_stopping:
                    return
                self._read(group)
        except BaseException as failure:  # whatever it is, `take` raises it
            with self._changed:
                self._failure = failure
                self._changed.notify()

    def _peek(self) -> PageGroup | None:
        """The pages to be read next, None at the end; opens their window."""
        if self._next_group is None:
            self._next_group = group = next(self._groups, None)
            if group is not None and group.first == 0:
                with self._changed:
                    self._windows.append(_OpenWindow(np.full(group.window_rows, NOT_READ, np.intp)))
                    self._row_limit = group.window_rows
        return self._next_group

    def _has_room(self, group: PageGroup) -> bool:
        """Whether the rows in memory stay as few as those of a window."""
        return len(self._free) - self._free_count + sum(group.row_counts) <= self._row_limit

    def _read(self, group: PageGroup) -> None:
        """Read pages into free slots and say so: after each page when somebody waits, else after the last."""
        self._advise(group)
        self._next_group = None
        turns = np.concatenate(group.turns)
        turns = turns[turns != NOT_OURS]
        with self._changed:
            window = self._windows[-1]
            self._free_count -= len(turns)
            slots = self._free[self._free_count : self._free_count + len(turns)].copy()
        read, said = 0, 0
        for page, page_turns, count in zip(group.pages, group.turns, group.row_counts, strict=True):
            self._read_page(page, page_turns, slots[read : read + count])
            read += count
            if self._is_awaited or read == len(slots):
                with self._changed:
                    window.slot_of_turn[turns[said:read]] = slots[said:read]
                    self._changed.notify()
                said = read

    def _advise(self, group: PageGroup) -> None:
        """Tell the store what will be read soon."""
        if group.first == 0:
            self._advised_pages = 0
        if group.first + ADVISED_PAGES > self._advised_pages:
            soon = slice(self._advised_pages, self._advised_pages + 2 * ADVISED_PAGES)
            self._store.will_need(group.window_pages[soon])
            self._advised_pages = soon.stop

    def _read_page(self, page: int, turns: NDArray[np.int32], slots: NDArray[np.intp]) -> None:
        tokens, starts, padding, domains = self._store.read_page(page, self._buffer)
        is_start = np.zeros((len(tokens), self._seq_len), np.bool_)
        is_start.reshape(-1)[starts] = True
        start_bits = np.packbits(is_start, axis=1)
        if len(slots) < len(tokens):
            is_ours = turns != NOT_OURS
            tokens, start_bits = tokens[is_ours], start_bits[is_ours]
            padding = None if padding is None else padding[is_ours]
            domains = None if domains is None else domains[is_ours]
        self._tokens[slots] = tokens
        self._start_bits[slots] = start_bits
        if padding is not None:
            self._padding[slots] = padding
        if domains is not None:
            self._domains[slots] = domains


def _joined(pieces: list[Rows]) -> Rows:
    domains = [piece.domains for piece in pieces if piece.domains is not None]
    return Rows(
        np.concatenate([piece.tokens for piece in pieces]),
        np.concatenate([piece.start_bits for piece in pieces]),
        np.concatenate([piece.padding for piece in pieces]),
        np.concatenate(domains) if domains else None,
    )

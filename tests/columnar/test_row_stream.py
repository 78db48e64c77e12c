"""Rows come in the reading order, whoever reads them, however many are taken at a time, within one window's memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yunmin_assets.columnar.packed_store import PackedStore, open_store
from yunmin_assets.columnar.reading_order import ReadingOrder
from yunmin_assets.columnar.row_stream import RowStream


def stream_of(folder, *, window_pages, start=0, ranks=(0, 1), epochs=2, has_thread=False, shuffle=True):
    """A stream from position `start` on, of one rank's share."""
    rank, world_size = ranks
    store = open_store(folder)
    order = ReadingOrder(store.page_rows, 3, shuffle, window_pages, 4)

    def share(_epoch, first, end):
        return np.array([position for position in range(first, end) if position % world_size == rank], int)

    return RowStream(
        store, order, share, epoch=0, position=start, end_epoch=epochs, has_thread=has_thread
    ), order


def rows_in_order(folder, read_rows, order, *, start=0, ranks=(0, 1), epochs=2):
    """The same rows by pyarrow and a walk through the order."""
    stored, first_rows = read_rows(folder), np.cumsum(order.page_rows) - order.page_rows
    rank, world_size = ranks
    found = []
    for epoch in range(epochs):
        position = start if epoch == 0 else 0
        while position < len(stored):
            window = order.epoch(epoch).window_at(position)
            numbers = np.concatenate(
                [
                    np.arange(first_rows[page], first_rows[page] + order.page_rows[page])
                    for page in window.pages
                ]
            )
            for place in range(position, window.end):
                if place % world_size == rank:
                    found.append(stored[numbers[window.slots[place - window.start]]])
            position = window.end
    return np.array(found)


@pytest.mark.parametrize("has_thread", [False, True])
@settings(max_examples=40, deadline=None)
@given(
    window_pages=st.integers(1, 120),
    start=st.integers(0, 300),
    ranks=st.sampled_from([(0, 1), (1, 2), (3, 4)]),
    shuffle=st.booleans(),
    count=st.integers(1, 150),
)
def test_rows_are_those_of_the_reading_order(
    packed, read_rows, has_thread, window_pages, start, ranks, shuffle, count
):
    stream, order = stream_of(
        packed, window_pages=window_pages, start=start, ranks=ranks, has_thread=has_thread, shuffle=shuffle
    )
    expected = rows_in_order(packed, read_rows, order, start=start, ranks=ranks)
    with stream:
        taken = [
            stream.take(min(count, len(expected) - first)).tokens for first in range(0, len(expected), count)
        ]
    assert np.array_equal(np.concatenate(taken), expected)


@pytest.fixture
def pages_read(monkeypatch):
    """Numbers of the pages that are read, as they are read."""
    read, read_page = [], PackedStore.read_page

    def note_and_read(store, page, buffer):
        read.append(page)
        return read_page(store, page, buffer)

    monkeypatch.setattr(PackedStore, "read_page", note_and_read)
    return read


def test_the_first_rows_need_few_pages_of_a_large_window(packed, pages_read):
    stream, order = stream_of(packed, window_pages=10_000)
    with stream:
        stream.take(2)
    assert len(pages_read) == len(set(pages_read)) <= len(order.page_rows) / 4


@pytest.mark.parametrize("has_thread", [False, True])
def test_no_row_is_read_before_there_is_room_for_it(packed, pages_read, has_thread):
    stream, order = stream_of(packed, window_pages=8, has_thread=has_thread)
    with stream:
        for taken in range(0, int(order.page_rows.sum()), 3):
            in_memory = sum(order.page_rows[page] for page in list(pages_read)) - taken
            assert in_memory <= 8 * order.page_rows.max()
            stream.take(3)


def test_without_a_thread_the_next_window_is_read_while_this_one_is_taken(packed, pages_read):
    window_pages = 40
    stream, order = stream_of(packed, window_pages=window_pages)
    window_rows = len(order.epoch(0).window_at(0).slots)
    with stream:
        for _ in range(0, window_rows - 4, 4):
            stream.take(4)
    assert len(pages_read) > 1.5 * window_pages


def test_no_more_rows_than_there_are(packed):
    stream, order = stream_of(packed, window_pages=4, epochs=1)
    with stream, pytest.raises(IndexError, match="more rows"):
        stream.take(int(order.page_rows.sum()) + 1)

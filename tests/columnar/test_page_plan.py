import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from yunmin_assets.columnar.page_plan import LARGEST_GROUP, NOT_OURS, page_groups
from yunmin_assets.columnar.reading_order import ReadingOrder

orders = st.builds(
    ReadingOrder,
    page_rows=st.lists(st.integers(1, 9), min_size=1, max_size=200).map(np.array),
    seed=st.integers(0, 5),
    shuffle=st.booleans(),
    window_pages=st.integers(1, 150),
    lanes=st.sampled_from([1, 4]),
)


def every_third(_epoch, start, end):
    return np.arange(start, end)[np.arange(start, end) % 3 == 1]


def plan(order, share=every_third):
    """Groups of one epoch, window by window."""
    windows = []
    for group in page_groups(order, share, epoch=0, position=0, end_epoch=1):
        if group.first == 0:
            windows.append([])
        windows[-1].append(group)
    return windows


@given(orders)
def test_every_turn_of_a_window_is_in_exactly_one_page(order):
    for groups in plan(order):
        turns = np.concatenate([turns for group in groups for turns in group.turns])
        assert sorted(turns[turns != NOT_OURS]) == list(range(groups[0].window_rows))


@given(orders)
def test_pages_come_when_their_first_row_is_wanted_and_pages_without_rows_do_not_come(order):
    for groups in plan(order):
        pages = [
            (page, turns) for group in groups for page, turns in zip(group.pages, group.turns, strict=True)
        ]
        assert [page for page, _ in pages] == groups[0].window_pages.tolist()
        first_turns = [turns[turns != NOT_OURS].min() for _, turns in pages]
        assert first_turns == sorted(first_turns)
        assert all(len(turns) == order.page_rows[page] for page, turns in pages)


@given(orders)
def test_groups_are_small_and_count_their_rows(order):
    for group in itertools.chain(*plan(order)):
        assert 1 <= len(group.pages) <= LARGEST_GROUP
        assert group.row_counts == [np.count_nonzero(turns != NOT_OURS) for turns in group.turns]


@given(orders)
def test_a_process_without_rows_reads_nothing(order):
    assert plan(order, share=lambda _epoch, _start, _end: np.empty(0, int)) == []

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from yunmin_assets.columnar.reading_order import ReadingOrder

orders = st.builds(
    ReadingOrder,
    page_rows=st.lists(st.integers(1, 9), min_size=1, max_size=60).map(np.array),
    seed=st.integers(0, 5),
    shuffle=st.booleans(),
    window_pages=st.integers(1, 20),
    lanes=st.sampled_from([1, 2, 4, 8]),
)


block_orders = st.integers(1, 60).flatmap(
    lambda pages: st.builds(
        ReadingOrder,
        page_rows=st.lists(st.integers(1, 9), min_size=pages, max_size=pages).map(np.array),
        seed=st.integers(0, 5),
        shuffle=st.booleans(),
        window_pages=st.integers(1, 20),
        lanes=st.sampled_from([1, 2, 4, 8]),
        blocks=st.sets(st.integers(0, pages - 1)).map(lambda firsts: np.array(sorted({0, *firsts}))),
    )
)


def walk(rule, epoch):
    """(page, row in page) of each position, window after window."""
    order = rule.epoch(epoch)
    position, found = 0, []
    while position < rule.page_rows.sum():
        window = order.window_at(position)
        rows = [(int(page), row) for page in window.pages for row in range(rule.page_rows[page])]
        found += [rows[slot] for slot in window.slots]
        position = window.end
    return found


def all_rows(rule):
    return [(page, row) for page, rows in enumerate(rule.page_rows) for row in range(rows)]


@given(orders | block_orders, st.integers(0, 3))
def test_an_epoch_holds_every_row_once(rule, epoch):
    assert sorted(walk(rule, epoch)) == all_rows(rule)


@given(orders | block_orders, st.integers(0, 3), st.data())
def test_the_window_of_any_position_is_found_without_walking(rule, epoch, data):
    position = data.draw(st.integers(0, int(rule.page_rows.sum()) - 1))
    window = rule.epoch(epoch).window_at(position)
    assert window.start <= position < window.end
    assert len(window.pages) <= rule.window_pages
    assert sorted(window.slots) == list(range(rule.page_rows[window.pages].sum()))


def test_without_shuffling_rows_come_as_they_are_stored():
    rule = ReadingOrder(np.array([3, 1, 4]), seed=0, shuffle=False, window_pages=2, lanes=2)
    assert walk(rule, 0) == walk(rule, 1) == all_rows(rule)


def test_seeds_and_epochs_give_other_orders():
    rules = [ReadingOrder(np.full(20, 4), seed, shuffle=True, window_pages=5, lanes=2) for seed in (0, 1)]
    walks = [walk(rule, epoch) for rule in rules for epoch in (0, 1)]
    assert len({tuple(found) for found in walks}) == 4
    assert walk(rules[0], 1) == walks[1]


def test_every_epoch_window_and_lane_has_an_order_of_its_own():
    rule = ReadingOrder(np.full(64, 16), seed=0, shuffle=True, window_pages=32, lanes=2)
    first, second = rule.epoch(0), rule.epoch(1)
    assert set(first.window_at(0).pages) != set(second.window_at(0).pages)
    windows = [first.window_at(0), first.window_at(512), second.window_at(0)]
    lanes = [window.slots[lane::2] - 256 * lane for window in windows for lane in range(2)]
    assert len({tuple(lane) for lane in lanes}) == 6


def test_a_rank_reads_only_the_pages_of_its_lanes():
    rule = ReadingOrder(np.full(512, 15), seed=0, shuffle=True, window_pages=201, lanes=8)
    for position in (0, 201 * 15):  # the second window does not start at a multiple of the lanes
        window = rule.epoch(0).window_at(position)
        for world_size in (2, 4, 8):
            ranks = [
                window.slots[(rank - window.start) % world_size :: world_size] for rank in range(world_size)
            ]
            assert sum(np.unique(slots // 15).size for slots in ranks) <= 1.1 * len(window.pages)


def test_rows_of_a_page_are_spread_over_their_window():
    rule = ReadingOrder(np.full(64, 16), seed=0, shuffle=True, window_pages=64, lanes=1)
    pages = np.array([page for page, _ in walk(rule, 0)])
    neighbours = np.mean(pages[1:] == pages[:-1])
    assert neighbours < 0.04  # 15 / 1023 = 0.015 for a perfect shuffle, 0.94 when pages stay whole


def test_the_order_of_a_seed_never_changes():
    # Written down once: an order that changed would break resuming a run after an upgrade.
    rule = ReadingOrder(np.full(6, 2), seed=7, shuffle=True, window_pages=4, lanes=2)
    assert walk(rule, 1) == [
        (5, 0),
        (4, 0),
        (0, 1),
        (3, 1),
        (0, 0),
        (3, 0),
        (5, 1),
        (4, 1),
        (2, 0),
        (1, 0),
        (2, 1),
        (1, 1),
    ]
    in_blocks = ReadingOrder(
        np.full(6, 2), 7, shuffle=True, window_pages=4, lanes=2, blocks=np.array([0, 2, 3])
    )
    assert walk(in_blocks, 1) == [
        (0, 0),
        (4, 0),
        (1, 1),
        (3, 1),
        (1, 0),
        (3, 0),
        (0, 1),
        (4, 1),
        (5, 0),
        (2, 0),
        (5, 1),
        (2, 1),
    ]


def test_pages_of_a_block_stay_together_and_blocks_are_permuted():
    blocks = np.array([0, 5, 9, 12, 20])
    rule = ReadingOrder(np.full(30, 4), 0, shuffle=True, window_pages=7, lanes=2, blocks=blocks)
    orders = [rule.epoch(epoch).pages for epoch in range(4)]
    members = [set(range(begin, end)) for begin, end in zip(blocks, [*blocks[1:], 30], strict=True)]
    for order in orders:
        for pages in members:
            places = [place for place, page in enumerate(order) if page in pages]
            assert places == list(range(min(places), max(places) + 1))
    assert len({tuple(order) for order in orders}) == 4

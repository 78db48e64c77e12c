from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yunmin_assets.columnar import shuffling
from yunmin_assets.columnar.shuffling import WRITE_SHUFFLE, gather, permutation, place_of_last_row, scatter

ROW_BYTES = 8


def rows(count, first=0):
    return np.arange(first, first + count, dtype="<u8").view(np.uint8).reshape(count, ROW_BYTES)


def shuffled(blocks, folder, seed=0, memory_bytes=1 << 20, skip_rows=0):
    """Row numbers in the order in which they come out."""
    scatter(blocks, folder, seed=seed)
    return gathered([folder], memory_bytes, skip_rows)


def gathered(folders, memory_bytes=1 << 20, skip_rows=0):
    blocks = [*gather(folders, ROW_BYTES, memory_bytes=memory_bytes, skip_rows=skip_rows)]
    return np.concatenate([np.ascontiguousarray(block).view("<u8")[:, 0] for block in [rows(0), *blocks]])


@given(st.integers(0, 200), st.integers(0, 2**40), st.lists(st.integers(0, 9), max_size=3))
def test_a_permutation_holds_every_number_once(size, seed, key):
    assert sorted(permutation(size, seed, tuple(key))) == list(range(size))


def test_the_order_for_a_seed_never_changes():
    # Written down once: an order that changed with a new NumPy would break resuming and equal bytes.
    assert permutation(10, 7, (1, 2)).tolist() == [1, 3, 8, 5, 4, 7, 0, 9, 2, 6]


def test_another_seed_or_key_gives_another_order():
    orders = [permutation(50, seed, key).tolist() for seed, key in [(0, ()), (0, (0,)), (0, (0, 0)), (1, ())]]
    assert len({tuple(order) for order in orders}) == 4


@given(st.integers(1, 300), st.integers(0, 2**40), st.sampled_from([1, 7, 10_000]))
def test_the_place_of_the_last_row_is_known_without_shuffling(rows, seed, keys_at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffling, "KEYS_AT_ONCE", keys_at_once)
        assert permutation(rows, seed, (WRITE_SHUFFLE,))[place_of_last_row(rows, seed)] == rows - 1


@pytest.mark.parametrize("memory_bytes", [1, 100, 3000, 1 << 20])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_order_is_the_permutation_of_the_seed_however_little_memory_there_is(
    tmp_path, memory_bytes, seed
):
    order = shuffled([rows(3000)], tmp_path / "scratch", seed, memory_bytes)
    assert np.array_equal(order, permutation(3000, seed, (WRITE_SHUFFLE,)))
    assert not [path for path in tmp_path.rglob("*") if "split" in path.name]


@given(
    ends=st.lists(st.integers(0, 300), min_size=1, max_size=6).map(sorted),
    pieces=st.integers(1, 3),
    memory_bytes=st.sampled_from([1, 200, 1 << 20]),
    skip_rows=st.integers(0, 310),
)
@settings(max_examples=40, deadline=None)
def test_neither_blocks_nor_pieces_nor_skipping_change_the_order(
    tmp_path_factory, ends, pieces, memory_bytes, skip_rows
):
    folder = tmp_path_factory.mktemp("scratch")
    blocks = [(begin, rows(end - begin, begin)) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    for piece in range(pieces):
        mine = blocks[piece * len(blocks) // pieces : (piece + 1) * len(blocks) // pieces]
        first_row = mine[0][0] if mine else 0
        scatter([block for _, block in mine], folder / str(piece), seed=3, first_row=first_row)
    order = gathered([folder / str(piece) for piece in range(pieces)], memory_bytes, skip_rows)
    assert np.array_equal(order, permutation(ends[-1], 3, (WRITE_SHUFFLE,))[skip_rows:])


def test_what_a_killed_reader_left_does_not_matter(tmp_path):
    scatter([rows(500)], tmp_path / "scratch", seed=0)
    reader = gather([tmp_path / "scratch"], ROW_BYTES, memory_bytes=1)
    next(reader)
    split = next((tmp_path / "scratch").glob("*-split"))
    (split / "00").write_bytes(b"half a row")
    assert np.array_equal(gathered([tmp_path / "scratch"], 1), permutation(500, 0, (WRITE_SHUFFLE,)))


def test_every_order_is_equally_likely(tmp_path):
    trials = 1200
    found = Counter(tuple(shuffled([rows(3)], tmp_path / str(seed), seed)) for seed in range(trials))
    expected = trials / 6
    chi_squared = sum((found[order] - expected) ** 2 / expected for order in permutations(range(3)))
    assert chi_squared < 20.5  # 5 degrees of freedom: exceeded by chance once in 1000


def test_no_rows_give_no_blocks(tmp_path):
    assert len(shuffled([], tmp_path / "scratch")) == 0

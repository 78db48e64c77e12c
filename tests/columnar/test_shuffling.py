from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yunmin_assets.columnar.shuffling import external_shuffle, permutation

ROW_BYTES = 8


def rows(count):
    return np.arange(count, dtype="<u8").view(np.uint8).reshape(count, ROW_BYTES)


def shuffled(blocks, folder, **options):
    """Row numbers in the order in which they come out."""
    options = {"seed": 0, "memory_bytes": 1 << 20, **options}
    return np.concatenate(
        [block.view("<u8")[:, 0] for block in external_shuffle(blocks, scratch=folder, **options)]
    )


@given(st.integers(0, 200), st.integers(0, 2**40), st.lists(st.integers(0, 9), max_size=3))
def test_a_permutation_holds_every_number_once(size, seed, key):
    assert sorted(permutation(size, seed, tuple(key))) == list(range(size))


def test_the_order_for_a_seed_never_changes():
    # Written down once: an order that changed with a new NumPy would break resuming and equal bytes.
    assert permutation(10, 7, (1, 2)).tolist() == [1, 3, 8, 5, 4, 7, 0, 9, 2, 6]


def test_another_seed_or_key_gives_another_order():
    orders = [permutation(50, seed, key).tolist() for seed, key in [(0, ()), (0, (0,)), (0, (0, 0)), (1, ())]]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("memory_bytes", [1, 100, 1 << 20])
def test_every_row_comes_out_once_however_little_memory_there_is(tmp_path, memory_bytes):
    order = shuffled([rows(1000)], tmp_path / "scratch", memory_bytes=memory_bytes)
    assert sorted(order) == list(range(1000))
    assert not np.array_equal(order, np.arange(1000))
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_order_and_another_seed_another(tmp_path):
    first = shuffled([rows(500)], tmp_path / "a", seed=1)
    assert np.array_equal(shuffled([rows(500)], tmp_path / "b", seed=1), first)
    assert not np.array_equal(shuffled([rows(500)], tmp_path / "c", seed=2), first)


def test_every_order_is_equally_likely(tmp_path):
    trials = 1200
    found = Counter(tuple(shuffled([rows(3)], tmp_path / str(seed), seed=seed)) for seed in range(trials))
    expected = trials / 6
    chi_squared = sum((found[order] - expected) ** 2 / expected for order in permutations(range(3)))
    assert chi_squared < 20.5  # 5 degrees of freedom: exceeded by chance once in 1000


def test_the_rows_of_a_bucket_are_shuffled_too(tmp_path):
    order = shuffled([rows(5000)], tmp_path / "scratch").astype(np.int64)
    assert abs(np.mean(np.diff(order) < 0) - 0.5) < 0.03  # 0.01 if buckets kept the order of their rows


def test_no_rows_give_no_blocks(tmp_path):
    assert list(external_shuffle([], seed=0, scratch=tmp_path / "scratch", memory_bytes=1)) == []

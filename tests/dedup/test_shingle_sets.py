"""Sets of hashed shingles are the sets of shingles, whatever their hashes have in common."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yunmin_assets.dedup import DedupConfig, compute_signatures, text_shingles
from yunmin_assets.dedup.kernels import distinct, table_bits
from yunmin_assets.dedup.shingle_sets import shingle_sets
from yunmin_assets.dedup.shingles import shingle_hash64
from yunmin_assets.progress import silent

CROWDED = st.builds(lambda high, low: high << 61 | low, st.integers(0, 7), st.integers(2, 40))
"""Hashes that want the same few slots."""


@given(st.lists(CROWDED | st.integers(2, 2**64 - 1), max_size=80))
@settings(max_examples=300, deadline=None)
def test_distinct_keeps_one_of_each(hashes: list[int]) -> None:
    claims = np.full(
        1 << table_bits(len(hashes)), 123_456_789, np.uint32
    )  # nothing is read before it is written
    out = np.zeros(len(hashes) + 1, np.uint64)
    found = distinct(np.array(hashes, np.uint64), len(hashes), claims, out)
    assert sorted(out[:found].tolist()) == sorted(set(hashes))
    assert out[len(hashes)] == 0, "the place behind the set belongs to the next text"


def test_hash_zero_is_written_as_one() -> None:
    out = np.empty(3, np.uint64)
    hashes = np.array([5, 0, 0], np.uint64)
    assert set(out[: distinct(hashes, 3, np.empty(16, np.uint32), out)].tolist()) == {1, 5}


@pytest.mark.parametrize("unit", ["character", "word"])
@given(texts=st.lists(st.text("가나다 ab.", max_size=80), min_size=1, max_size=8), data=st.data())
@settings(max_examples=60, deadline=None)
def test_sets_are_the_hashed_shingles_of_the_wanted_texts(
    unit: str, texts: list[str], data: st.DataObject
) -> None:
    config = DedupConfig(ngram=3, ngram_unit=unit)
    rows = np.array(data.draw(st.permutations(range(len(texts)))), np.int64)[: max(1, len(texts) // 2)]
    column = pa.chunked_array([texts])
    counts = compute_signatures(column, config).shingles
    sets = shingle_sets(column, rows, counts, config, silent)
    for number, row in enumerate(rows):
        hashes = sets.hashes[sets.starts[number] :][: sets.sizes[number]]
        expected = {shingle_hash64(shingle) for shingle in text_shingles(texts[row], config)}
        assert sorted(hashes.tolist()) == sorted(expected)

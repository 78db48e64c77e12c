"""Shingles of words: the same promises as for characters, against plain Python and datasketch."""

import datasketch
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.dedup.oracle import Decision, anchored, word_shingle_set
from yunmin_assets.dedup import (
    DedupConfig,
    compute_signatures,
    deduplicate,
    normalize_text,
    shingle_hash,
    text_shingles,
)
from yunmin_assets.dedup.kernels import hash_shingles, shingle_scratch
from yunmin_assets.dedup.shingles import shingle_hash64

WORDS = st.lists(st.sampled_from(["가", "나다", "a", "Bc", "라마바사아자차", "-", "!"]), max_size=30)
TEXTS = st.builds(" ".join, WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NGRAMS = st.integers(1, 6)


@given(TEXTS, NGRAMS)
@example("하나", 1)
@example(" . ", 2)
@settings(max_examples=200, deadline=None)
def test_shingles_are_the_runs_of_consecutive_words(text: str, ngram: int) -> None:
    seen = normalize_text(text)
    words = seen.split(" ") if seen else []
    expected = {" ".join(words[at : at + ngram]) for at in range(len(words)) if at + ngram <= len(words)}
    config = DedupConfig(ngram=ngram, ngram_unit="word")
    assert text_shingles(text, config) == (expected or {" ".join(words)} - {""})


@given(TEXTS, NGRAMS)
@settings(max_examples=200, deadline=None)
def test_compiled_hashes_are_the_hashes_of_the_shingles(text: str, ngram: int) -> None:
    seen = normalize_text(text)
    code_points = np.array([ord(character) for character in seen], np.uint32)
    scratch = shingle_scratch(len(seen), ngram, True)
    count = hash_shingles(code_points, len(seen), ngram, True, scratch)
    words = seen.split(" ") if seen else []
    expected = (
        [" ".join(words[at : at + ngram]) for at in range(max(1, len(words) - ngram + 1))] if words else []
    )
    assert scratch.shingles[:count].tolist() == [shingle_hash64(shingle) for shingle in expected]


@given(st.lists(TEXTS, min_size=1, max_size=5), NGRAMS)
@settings(max_examples=50, deadline=None)
def test_signatures_equal_datasketch_bit_for_bit(texts: list[str], ngram: int) -> None:
    config = DedupConfig(ngram=ngram, ngram_unit="word")
    signatures = compute_signatures(pa.array(texts), config)
    for text, row in zip(texts, signatures.minhash, strict=True):
        minhash = datasketch.MinHash(num_perm=config.num_perm, seed=config.seed, hashfunc=shingle_hash)
        minhash.update_batch(text_shingles(text, config))
        np.testing.assert_array_equal(row, minhash.hashvalues)


def test_counts_are_positions_of_an_ngram_of_words() -> None:
    texts = ["", "?!", "하나", "하나 둘", "하나 둘 셋", "하나 둘 셋 넷", " 하나,  둘 - 셋\n넷 다섯. "]
    signatures = compute_signatures(pa.array(texts), DedupConfig(ngram=3, ngram_unit="word"))
    assert signatures.shingles.tolist() == [0, 0, 1, 1, 1, 2, 3]


EVERY_PAIR = {"ngram": 2, "ngram_unit": "word", "bands": 64, "rows": 1}
"""Bands of one row: a pair of Jaccard 0.5 stays unseen with probability 2⁻⁶⁴."""


def decisions_of(documents: dict[str, str], config: DedupConfig) -> dict[str, Decision]:
    table = pa.table({"id": list(documents), "text": list(documents.values())})
    rows = deduplicate(table, config).to_pylist()
    return {row["id"]: Decision(row["survivor_id"], row["jaccard"]) for row in rows}


def test_a_document_goes_for_the_words_that_it_shares() -> None:
    documents = {
        "original": "동해 물과 백두산이 마르고 닳도록 하느님이 보우하사 우리나라 만세",
        "another last word": "동해 물과 백두산이 마르고 닳도록 하느님이 보우하사 우리나라 만만세!",
        "other spacing": "동해물과 백두산이 마르고닳도록 하느님이보우하사 우리나라만세",
        "twice": "우리나라 만세 우리나라 만세 우리나라 만세",
        "a word": "만세",
        "the same word": "만세.",
        "nothing": "...",
    }
    decisions = decisions_of(documents, DedupConfig(threshold=0.7, **EVERY_PAIR))
    seven_of_nine = Decision("another last word", 7 / 9)
    assert {name: decision for name, decision in decisions.items() if decision.survivor != name} == {
        "original": seven_of_nine,
        "a word": Decision("the same word", 1.0),
    }
    by_characters = DedupConfig(threshold=0.5, ngram=2, bands=64, rows=1)
    assert decisions_of(documents, by_characters)["other spacing"].survivor == "another last word"


@given(st.lists(st.builds(" ".join, WORDS), min_size=1, max_size=10), st.sampled_from([0.5, 0.8, 1.0]))
@settings(max_examples=100, deadline=None)
def test_decisions_are_the_greedy_independent_set_over_all_pairs(texts: list[str], threshold: float) -> None:
    documents = {f"d{number}": text for number, text in enumerate(texts)}
    config = DedupConfig(threshold=threshold, **EVERY_PAIR)
    expected = anchored(documents, config.ngram, threshold, shingles=word_shingle_set)
    assert decisions_of(documents, config) == expected


def test_the_unit_is_what_the_config_says() -> None:
    text = "가 나 다"
    assert text_shingles(text, DedupConfig(ngram=2, ngram_unit="word")) == {"가 나", "나 다"}
    assert text_shingles(text, DedupConfig(ngram=2)) == {"가 ", " 나", "나 ", " 다"}
    words, characters = (
        compute_signatures(pa.array([text]), DedupConfig(ngram=2, ngram_unit=unit))
        for unit in ("word", "character")
    )
    assert (words.minhash != characters.minhash).any()
    assert (words.text_hash == characters.text_hash).all()


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="ngram_unit"):
        DedupConfig(ngram_unit="syllable")

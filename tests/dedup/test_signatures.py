"""Signatures are datasketch's, whatever the shape of the Arrow array."""

import struct

import datasketch
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yunmin_assets.dedup import (
    DedupConfig,
    compute_signatures,
    minhash_permutations,
    normalize_text,
    shingle_hash,
    text_shingles,
)
from yunmin_assets.dedup.kernels import hash_shingles, shingle_scratch
from yunmin_assets.dedup.murmur3 import hash_text
from yunmin_assets.dedup.shingles import shingle_hash64
from yunmin_assets.dedup.signatures import Signatures

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=6)
ANTHEM = "동해 물과 백두산이 마르고 닳도록"


def datasketch_minhash(text: str, config: DedupConfig) -> datasketch.MinHash:
    minhash = datasketch.MinHash(num_perm=config.num_perm, seed=config.seed, hashfunc=shingle_hash)
    minhash.update_batch(text_shingles(text, config))
    return minhash


@pytest.mark.parametrize(("num_perm", "seed"), [(1, 0), (126, 1), (117, 42), (128, 2**32 - 1)])
def test_permutations_are_those_datasketch_draws(num_perm: int, seed: int) -> None:
    expected = datasketch.MinHash(num_perm=num_perm, seed=seed).permutations
    np.testing.assert_array_equal(minhash_permutations(num_perm, seed), expected)


@given(TEXTS, st.sampled_from([1, 3, 13]), st.sampled_from([(21, 6), (9, 13), (1, 1)]), st.integers(0, 9))
@settings(deadline=None)
def test_signatures_equal_datasketch_bit_for_bit(
    texts: list[str], ngram: int, banding: tuple[int, int], seed: int
) -> None:
    config = DedupConfig(ngram=ngram, bands=banding[0], rows=banding[1], seed=seed)
    minhash = compute_signatures(pa.array(texts), config).minhash
    assert minhash.dtype == np.uint32
    np.testing.assert_array_equal(minhash, [datasketch_minhash(text, config).hashvalues for text in texts])


def test_a_row_answers_queries_in_a_datasketch_index() -> None:
    config = DedupConfig(bands=16, rows=8)
    texts = [
        ANTHEM + f" {chapter}장. " * 9 + name * 30 for chapter, name in enumerate(["가", "나다", "라마바"])
    ]
    rows = compute_signatures(pa.array(texts), config).minhash
    options = {
        "scheme": "affine32",
        "hashfunc": shingle_hash,
        "permutations": minhash_permutations(config.num_perm, config.seed),
    }
    index = datasketch.MinHashLSH(threshold=0.8, num_perm=config.num_perm)
    for number, row in enumerate(rows):
        index.insert(number, datasketch.MinHash(hashvalues=row, **options))
    query = datasketch.MinHash(num_perm=config.num_perm, **options)
    query.update_batch(text_shingles(texts[1].upper() + "!", config))
    assert index.query(query) == [1]
    assert query.jaccard(datasketch.MinHash(hashvalues=rows[1], **options)) == 1.0


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), st.integers(1, 20))
@settings(deadline=None)
def test_compiled_hashes_are_the_hashes_of_the_shingles(text: str, ngram: int) -> None:
    code_points = np.array([ord(character) for character in text], np.uint32)
    scratch = shingle_scratch(len(text), ngram, False)
    count = hash_shingles(code_points, len(text), ngram, False, scratch)
    expected = [text[at : at + ngram] for at in range(max(1, len(text) - ngram + 1))] if text else []
    assert scratch.shingles[:count].tolist() == [shingle_hash64(shingle) for shingle in expected]


def test_different_shingles_of_korean_text_have_different_hashes() -> None:
    syllables = np.random.default_rng(0).integers(0xAC00, 0xAC00 + 300, 200_000)
    text = "".join(map(chr, syllables))
    shingles = {text[at : at + 3] for at in range(len(text) - 2)}
    hashes = {shingle_hash(shingle) for shingle in shingles}
    assert len({shingle_hash64(shingle) for shingle in shingles}) == len(shingles)
    expected_collisions = len(shingles) ** 2 / 2**33
    assert len(shingles) - len(hashes) < 3 * expected_collisions


def murmur3_x64_128(data: bytes) -> tuple[int, int]:
    """Austin Appleby's MurmurHash3_x64_128 with seed 0, transcribed for whole and partial blocks."""
    mask = 2**64 - 1

    def rotate(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & mask

    def finalize(value: int) -> int:
        value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & mask
        value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & mask
        return value ^ value >> 33

    c1, c2, h1, h2 = 0x87C37B91114253D5, 0x4CF5AD432745937F, 0, 0
    for at in range(0, len(data), 16):
        block = data[at : at + 16]
        k1, k2 = struct.unpack("<QQ", block.ljust(16, b"\0"))
        h1 ^= rotate(k1 * c1 & mask, 31) * c2 & mask
        if len(block) < 16:
            h2 ^= rotate(k2 * c2 & mask, 33) * c1 & mask
            break
        h1 = ((rotate(h1, 27) + h2) * 5 + 0x52DCE729) & mask
        h2 ^= rotate(k2 * c2 & mask, 33) * c1 & mask
        h2 = ((rotate(h2, 31) + h1) * 5 + 0x38495AB5) & mask
    h1, h2 = h1 ^ len(data), h2 ^ len(data)
    h1 = (h1 + h2) & mask
    h2 = (h2 + h1) & mask
    h1, h2 = finalize(h1), finalize(h2)
    h1 = (h1 + h2) & mask
    return h1, (h2 + h1) & mask


def test_the_transcribed_murmur_gives_the_published_values() -> None:
    assert murmur3_x64_128(b"") == (0, 0)
    assert murmur3_x64_128(b"hello") == (0xCBD8A7B341BD9B02, 0x5B1E906A48AE1D19)
    pangram = b"The quick brown fox jumps over the lazy dog"
    assert murmur3_x64_128(pangram) == (0xE34BBC7BBC071B6C, 0x7A433CA9C49A9347)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(deadline=None)
def test_text_hash_is_murmur3_of_the_normalised_code_points(text: str) -> None:
    seen = normalize_text(text).encode("utf-32-le")
    expected = murmur3_x64_128(seen)
    assert hash_text(np.frombuffer(seen, np.uint32), len(seen) // 4) == expected
    assert tuple(compute_signatures(pa.array([text]), DedupConfig()).text_hash[0]) == expected


def test_counts_are_positions_of_an_ngram_and_characters_of_the_original() -> None:
    texts = ["", "...", "짧다", "가" * 12, "가" * 13, "가" * 20, "Punctuation, counted: as characters!"]
    signatures = compute_signatures(pa.array(texts), DedupConfig(ngram=13))
    assert signatures.shingles.tolist() == [0, 0, 1, 1, 1, 8, 33 - 12]
    assert signatures.characters.tolist() == [len(text) for text in texts]
    assert (signatures.minhash[0] == 2**32 - 1).all()


def _equal(first: Signatures, second: Signatures) -> bool:
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return all(np.array_equal(left, right) for left, right in pairs)


@given(TEXTS, st.data())
@settings(deadline=None)
def test_chunks_slices_and_string_types_do_not_matter(texts: list[str], data: st.DataObject) -> None:
    config = DedupConfig(ngram=3, bands=4, rows=2)
    expected = compute_signatures(pa.array(texts, pa.large_string()), config)
    cut = data.draw(st.integers(0, len(texts)))
    padded = pa.array(["앞", *texts, "뒤"], pa.string()).slice(1, len(texts))
    chunked = pa.chunked_array([padded.slice(0, cut), pa.array([], pa.string()), padded.slice(cut)])
    assert _equal(compute_signatures(padded, config), expected)
    assert _equal(compute_signatures(chunked, config), expected)
    parts = [compute_signatures(chunk, config) for chunk in chunked.chunks]
    assert _equal(Signatures.concatenate(parts), expected)


def test_no_texts_give_no_signatures() -> None:
    for texts in (pa.array([], pa.string()), pa.chunked_array([], pa.large_string())):
        signatures = compute_signatures(texts, DedupConfig())
        assert len(signatures) == 0 and signatures.band_keys.shape == (21, 0)


def test_band_keys_are_equal_exactly_where_the_rows_of_the_band_are() -> None:
    config = DedupConfig(ngram=3, bands=5, rows=2)
    texts = pa.array(["가나다라마바사", "가나다라마바아", "가나다라마바사!", "전혀 다른 문서"])
    signatures = compute_signatures(texts, config)
    rows = signatures.minhash.reshape(4, 5, 2)
    for band in range(5):
        same_rows = (rows[:, None, band] == rows[None, :, band]).all(axis=2)
        keys = signatures.band_keys[band]
        np.testing.assert_array_equal(keys[:, None] == keys[None, :], same_rows)


def test_nulls_and_other_types_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"column 'text' has 1 nulls, the first in row 2"):
        compute_signatures(pa.chunked_array([["가", "나"], [None]]), DedupConfig())
    with pytest.raises(TypeError, match=r"column 'text' is int64: cast it to string"):
        compute_signatures(pa.array([1]), DedupConfig())


def test_the_log_says_why_the_first_run_takes_longer_and_how_far_it_is() -> None:
    lines: list[str] = []
    compute_signatures(pa.array(["가", "나"]), DedupConfig(), log=lines.append)
    assert lines[-1].startswith("2 of 2 documents")

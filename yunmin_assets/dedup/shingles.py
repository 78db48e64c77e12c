"""Shingles (n-grams) and their hash, as plain Python: the definition that the kernels follow.

A normalised text of m characters has m − n + 1 shingles of n characters. Or the units are words, what lies
between the spaces of the normalised text, and a shingle is n of them joined by one space. A text with fewer
than n units is one shingle, an empty text has none. A shingle c₀…c₍ₗ₋₁₎ hashes to the 64-bit polynomial

    h = Σ (cᵢ + 1) · Bˡ⁻ⁱ  mod 2⁶⁴

so the hashes of a text's beginnings give that of any piece of it at one multiplication: the characters
i…j−1 have hⱼ − hᵢ · Bʲ⁻ⁱ. The exponent starts at 1, so even the last character reaches the high bits; their
upper half is the 32-bit hash given to MinHash.

Two shingles share all 64 bits with a probability near 2⁻⁶⁴, and "exact Jaccard" in this package means
exact up to that. (Polynomials mod 2⁶⁴ have constructed collisions, the Thue-Morse strings, from about a
thousand characters on; n-grams are usually two orders of magnitude shorter.)
"""

from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.normalize import normalize_text

SHINGLE_BASE = 0x9E3779B97F4A7C15
"""B: 2⁶⁴ divided by the golden ratio, odd."""

_MASK64 = (1 << 64) - 1


def shingle_hash64(shingle: str) -> int:
    """The 64-bit hash of one shingle of normalised text, which exact verification compares."""
    value = 0
    for character in shingle:
        value = (value + ord(character) + 1) * SHINGLE_BASE & _MASK64
    return value


def shingle_hash(shingle: str) -> int:
    """The 32-bit hash of one shingle of normalised text: the `hashfunc` of `datasketch.MinHash`.

    Example:
        A row of `compute_signatures(...).minhash` meets a text that was never in the corpus::

            permutations = minhash_permutations(config.num_perm, config.seed)
            options = dict(scheme="affine32", hashfunc=shingle_hash, permutations=permutations)
            stored = MinHash(hashvalues=row, **options)
            query = MinHash(num_perm=config.num_perm, **options)
            query.update_batch(text_shingles("some text", config))
            query.jaccard(stored)
    """
    return shingle_hash64(shingle) >> 32


def text_shingles(text: str, config: DedupConfig) -> set[str]:
    """The set of shingles that the comparison sees in `text`; exact Jaccard is defined on it."""
    normalized = normalize_text(text, config.punctuation)
    units, separator = (normalized.split(), " ") if config.ngram_unit == "word" else (normalized, "")
    if not units:
        return set()
    count = max(1, len(units) - config.ngram + 1)
    return {separator.join(units[start : start + config.ngram]) for start in range(count)}

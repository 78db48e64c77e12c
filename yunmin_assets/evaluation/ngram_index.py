"""An exact index of the character n-grams of some texts, and compiled kernels that look for them in other texts.

The indexed texts are normalised and lie one after the other in one array. An n-gram is known by the place in it where
it first begins, so every occurrence of it leads to the same number. A table of slots (open addressing, linear probing)
leads from the hash of an n-gram (`dedup.shingles`) to that place, and the characters there are compared: a hash
never decides. Before that a small table of bits says of nearly all n-grams that are not indexed that they are not,
without a branch and from the processor's cache. Building and looking up are linear in the length of the texts.

Memory: about 45 bytes per character of the indexed texts. Price of looking: see `contamination`.

Numba's disk cache notices a change in a kernel's own file only, so the files that these kernels are compiled with are
in the line below (see `dedup.kernels`).
"""

# Compiled with 24b0c72f4e28

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yunmin_assets.compiling import kernel
from yunmin_assets.dedup.kernels import OK, hash_shingles, longest_text, normalize_utf8, shingle_scratch
from yunmin_assets.dedup.normalize import MAYBE_NOT_NFC

# mypy: allow-untyped-defs
# numba infers the types of the kernels; their docstrings state them.

U64 = np.uint64

NOWHERE = np.int64(-1)
"""In place of a place: a free slot, or a character with which no n-gram begins."""
SLOTS_PER_CHARACTER = 2
"""At least; at most half of the slots are taken, so a search ends after about one step."""
BITS_PER_SLOT = 8
"""At most one bit in sixteen is set, so fewer than that of the n-grams that are not indexed are searched for."""
WORD_BITS = 6
"""log₂ of the bits in a word of the table of bits."""


@dataclass(frozen=True)
class NgramIndex:
    """The n-grams of t normalised texts with c characters in all.

    Attributes:
        ngram: characters in an n-gram.
        code_points: uint32[c], the texts one after the other.
        starts: int64[t + 1]; text i is code_points[starts[i] : starts[i + 1]].
        first_places: int64[c]; for the n-gram that begins at each place, where it begins for the first time, or
            `NOWHERE` if the text ends before the n-gram would.
        slots: int64[2ᵇ], first places by the b highest bits of the hash.
        bits: uint64[2ᵇ⁻³], of which bit number h is set if the b + 3 highest bits of some hash are h.
    """

    ngram: int
    code_points: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    first_places: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]

    def places(self, text: int) -> npt.NDArray[np.int64]:
        """int64[m], the first places of the n-grams of one text, in its order; empty if it is too short."""
        start, end = self.starts[text], self.starts[text + 1]
        return self.first_places[start : max(start, end - self.ngram + 1)]


def index_ngrams(texts: Sequence[str], ngram: int) -> NgramIndex:
    """Index the character n-grams of texts.

    Args:
        texts: normalised as those that are looked through will be.
        ngram: characters in an n-gram.

    Raises:
        ValueError: `ngram` is less than 1.
    """
    if ngram < 1:
        raise ValueError(f"an n-gram of {ngram} characters: choose at least 1")
    code_points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    slots = np.full(
        1 << max(WORD_BITS, (SLOTS_PER_CHARACTER * code_points.size).bit_length()), NOWHERE, np.int64
    )
    bits = np.zeros(slots.size * BITS_PER_SLOT >> WORD_BITS, np.uint64)
    first_places = np.full(code_points.size, NOWHERE, np.int64)
    fill_tables(code_points, starts, ngram, slots, bits, first_places)
    return NgramIndex(ngram, code_points, starts, first_places, slots, bits)


@kernel
def hash_shift(count):
    """By how many bits a hash is shifted to be a number below `count`, a power of two from 2 on."""
    shift = 64
    while count > 1:
        count >>= 1
        shift -= 1
    return U64(shift)


@kernel
def word_and_bit(hash_, shift):
    """The word in the table of bits, and the bit in it, of a hash."""
    number = hash_ >> shift
    return number >> U64(WORD_BITS), U64(1) << (number & U64((1 << WORD_BITS) - 1))


@kernel
def are_equal(first, at, second, place, count):
    """Whether first[at : at + count] and second[place : place + count] are the same."""
    step = 0
    while step < count and first[at + step] == second[place + step]:
        step += 1
    return step == count


@kernel
def find_slot(text, at, hash_, shift, code_points, ngram, slots):
    """The slot of the n-gram text[at : at + ngram], or the free one where it belongs."""
    slot = hash_ >> shift
    last = U64(slots.size - 1)
    while slots[slot] != NOWHERE and not are_equal(text, at, code_points, slots[slot], ngram):
        slot = (slot + U64(1)) & last
    return slot


@kernel
def fill_tables(code_points, starts, ngram, slots, bits, first_places):
    """Fill `slots` and `first_places`, `NOWHERE` before, and `bits`, 0 before; all arguments as in `NgramIndex`."""
    longest = 0
    for text in range(starts.size - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    scratch = shingle_scratch(longest, ngram, False)
    shift, bit_shift = hash_shift(slots.size), hash_shift(bits.size << WORD_BITS)
    for text in range(starts.size - 1):
        start, length = starts[text], starts[text + 1] - starts[text]
        if length < ngram:
            continue
        count = hash_shingles(code_points[start:], length, ngram, False, scratch)
        for at in range(count):
            place, hash_ = start + at, scratch.shingles[at]
            slot = find_slot(code_points, place, hash_, shift, code_points, ngram, slots)
            if slots[slot] == NOWHERE:
                slots[slot] = place
                word, bit = word_and_bit(hash_, bit_shift)
                bits[word] |= bit
            first_places[place] = slots[slot]


@kernel
def find_candidates(hashes, count, bits, candidates):
    """Write the places of those of hashes[:count] whose bit is set to `candidates`; return how many."""
    shift = hash_shift(bits.size << WORD_BITS)
    found = U64(0)
    for at in range(count):
        word, bit = word_and_bit(hashes[at], shift)
        candidates[found] = at
        found += U64((bits[word] & bit) != 0)
    return np.int64(found)


@kernel
def find_ngrams(
    data, offsets, rows, positions, table, accept_any_form, code_points, ngram, slots, bits, sources
):  # fmt: skip
    """Look for indexed n-grams in the texts in `rows` of an Arrow array.

    Args:
        data, offsets, rows, positions, table, accept_any_form: as in `dedup.kernels.sign_texts`.
        code_points, ngram, slots, bits: as in `NgramIndex`.
        sources: int64[c]; an n-gram is passed over if its first place has a source that is not `NOWHERE`.

    Returns:
        (statuses, places, found_in): uint32[r], the status of each text; int64[f], the first place of each n-gram
        found, repeats included, and int64[f], the position of the text that it was found in.
    """
    longest = longest_text(offsets, rows)
    text = np.empty(longest, np.uint32)
    scratch = shingle_scratch(longest, ngram, False)
    candidates = np.empty(longest + 1, np.int64)
    shift = hash_shift(slots.size)
    statuses = np.zeros(rows.size, np.uint32)
    room = 0
    for row in rows:
        room += offsets[row + 1] - offsets[row]
    places, found_in = np.empty(room, np.int64), np.empty(room, np.int64)
    found = 0
    for index in range(rows.size):
        start, end = offsets[rows[index]], offsets[rows[index] + 1]
        length, _, status = normalize_utf8(data, start, end, table, text)
        if accept_any_form:
            status &= ~MAYBE_NOT_NFC
        statuses[index] = status
        if status != OK or length < ngram:
            continue
        count = hash_shingles(text, length, ngram, False, scratch)
        for at in candidates[: find_candidates(scratch.shingles, count, bits, candidates)]:
            place = slots[find_slot(text, at, scratch.shingles[at], shift, code_points, ngram, slots)]
            if place != NOWHERE and sources[place] == NOWHERE:
                places[found], found_in[found] = place, positions[index]
                found += 1
    return statuses, places[:found].copy(), found_in[:found].copy()

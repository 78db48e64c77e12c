"""Compiled kernels: UTF-8 bytes of an Arrow buffer in, signatures or sets of shingles out.

No Python string is made on the way: bytes → normalised code points → 64-bit hashes of shingles → MinHash,
one document at a time in scratch space the size of the longest document of the block. Each step is a plain
loop that the compiler turns into vector code, and no branch depends on the text, so none is mispredicted.

Price on one core with AVX-512, per MB of Korean text (0.42 million shingles): 0.8 ms to normalise, 0.6 ms
to hash shingles, 2.3 ms for 128 permutations, which is near the limit of the vector multiplier. With AVX2:
1.7, 0.5 and 3.3 ms. Collecting sets: 0.8 ms for the distinct shingles instead of the permutations.

Every kernel releases the GIL; `text_blocks` runs blocks of documents on a pool of threads, so there is no
numba threading layer to choose and the result does not depend on the number of threads. They are in this
one file because numba's disk cache notices a change in a kernel's own file only. What they import from
other files is in the line below, so that a change there is a change here; a test says when it is due.
"""

# Compiled with 085df26e2f9d

from typing import NamedTuple

import numpy as np

from yunmin_assets.compiling import kernel
from yunmin_assets.dedup.compress import remove_value
from yunmin_assets.dedup.murmur3 import hash_text, mix32, mix64
from yunmin_assets.dedup.normalize import CODE_POINT_MASK, DROPPED, MALFORMED, MAYBE_NOT_NFC, SPACE
from yunmin_assets.dedup.shingles import SHINGLE_BASE

# mypy: allow-untyped-defs
# numba infers the types; the docstrings state them.

U32, U64 = np.uint32, np.uint64

OK = U32(0)
"""Status of a text. The others are two flags of the table, `MAYBE_NOT_NFC` and `MALFORMED`, and this one:"""
TEXT_CHANGED = U32(1)
"""The text has another number of shingles than its signature says."""

LANES = 32
"""The MinHash loop runs over a multiple of this many permutations, or a scalar remainder costs a third."""
UNROLLED = 8
"""Shingles per turn of the MinHash loop: one load and store of the minima per eight shingles."""

BASE, BASE2, BASE3, BASE4 = (U64(pow(SHINGLE_BASE, exponent, 1 << 64)) for exponent in (1, 2, 3, 4))
LARGEST = U32(0xFFFFFFFF)


def announce_first_use(kernel, log):
    """Say why the first call of a kernel in a process takes longer."""
    if not kernel.signatures:
        log("loading compiled kernels; a first run compiles them (some 5 to 15 s, then cached)")


@kernel
def byte_at(text, at):
    """The byte, or 0 outside the text."""
    return text[at] if 0 <= at < text.size else np.uint8(0)


@kernel
def is_misplaced(third_before, second_before, before, byte):
    """Whether no UTF-8 text has `byte` after these three: every lead byte wants its continuation bytes."""
    is_wanted = (before >= 0xC2) | (second_before >= 0xE0) | (third_before >= 0xF0)
    is_continuation = (byte & 0xC0) == 0x80
    return (is_continuation != is_wanted) | (byte == 0xC0) | (byte == 0xC1) | (byte > 0xF4)


@kernel
def is_malformed(text):
    """Whether the bytes of some character do not belong together. Spellings that are too long pass."""
    malformed = False
    for at in range(text.size - 3):
        malformed |= is_misplaced(text[at], text[at + 1], text[at + 2], text[at + 3])
    for edge in range(3):
        for at in (edge, text.size + edge):
            before = byte_at(text, at - 3), byte_at(text, at - 2), byte_at(text, at - 1)
            malformed |= is_misplaced(*before, byte_at(text, at))
    return malformed


@kernel
def decode(first, second, third, fourth):
    """The code point that begins with the first of four bytes, or `DROPPED` if none begins there."""
    first, second, third, fourth = U32(first), U32(second & 0x3F), U32(third & 0x3F), U32(fourth & 0x3F)
    if first < U32(0x80):
        return first
    if first < U32(0xC0):
        return DROPPED
    if first < U32(0xE0):
        return (first & U32(0x1F)) << U32(6) | second
    if first < U32(0xF0):
        return (first & U32(0x0F)) << U32(12) | second << U32(6) | third
    return (first & U32(0x07)) << U32(18) | second << U32(12) | third << U32(6) | fourth


@kernel
def decode_text(text, code_points):
    """Write the code points of well-formed UTF-8; return how many.

    Decodes at every byte and removes what began in the middle of a character: twice the work for Korean,
    but nothing waits for the width of the character before.
    """
    whole = max(0, text.size - 3)
    for at in range(whole):
        code_points[at] = decode(text[at], text[at + 1], text[at + 2], text[at + 3])
    for at in range(whole, text.size):
        code_points[at] = decode(text[at], byte_at(text, at + 1), byte_at(text, at + 2), np.uint8(0))
    return remove_value(code_points, text.size, DROPPED)


@kernel
def apply_table(code_points, count, table):
    """Replace each code point by its entry in the table; return the flags of the entries."""
    flags = OK
    for at in range(count):
        entry = table[code_points[at]]
        flags |= entry
        code_points[at] = entry & CODE_POINT_MASK
    return flags & (MAYBE_NOT_NFC | MALFORMED)


@kernel
def collapse_spaces(code_points, count):
    """Leave one space between words and none around them; return the new length."""
    leading = 0
    while leading < count and code_points[leading] == SPACE:
        code_points[leading] = DROPPED
        leading += 1
    for at in range(count - 1):
        is_surplus = (code_points[at] == SPACE) & (code_points[at + 1] == SPACE)
        code_points[at] = DROPPED if is_surplus else code_points[at]
    length = remove_value(code_points, count, DROPPED)
    return length - 1 if length > 0 and code_points[length - 1] == SPACE else length


@kernel
def normalize_utf8(data, start, end, table, code_points):
    """Normalise the text data[start:end] into `code_points`.

    Args:
        data: uint8[:]; what lies before `start` or from `end` on does not matter.
        table: `normalize.normalization_table`.
        code_points: uint32[:], room for one code point per byte of the text.

    Returns:
        (length, characters, status): normalised code points written, characters of the text before, and
        `OK` or the flags `MAYBE_NOT_NFC` and `MALFORMED`.
    """
    text = data[start:end]
    if is_malformed(text):  # first, for it also brings the text into the cache at the best rate
        return 0, 0, MALFORMED
    characters = decode_text(text, code_points)
    status = apply_table(code_points, characters, table)
    length = remove_value(code_points, characters, DROPPED)
    return collapse_spaces(code_points, length), characters, status


class ShingleScratch(NamedTuple):
    """Scratch space to hash the shingles of one text after the other."""

    prefixes: np.ndarray
    powers: np.ndarray
    word_starts: np.ndarray
    shingles: np.ndarray


@kernel
def shingle_scratch(longest, ngram, by_words):
    """Space for texts of up to `longest` code points, and the base's powers as far as a shingle reaches."""
    reach = longest if by_words else min(ngram, longest)
    powers = np.ones(reach + 1, np.uint64)
    for exponent in range(1, reach + 1):
        powers[exponent] = powers[exponent - 1] * BASE
    return ShingleScratch(
        np.empty(longest + 1, np.uint64),
        powers,
        np.empty(longest + 2 if by_words else 0, np.int64),
        np.empty(longest, np.uint64),
    )


@kernel
def hash_prefixes(code_points, length, prefixes):
    """prefixes[i] = `shingles.shingle_hash64` of the first i code points.

    Four at a time, so that a turn waits for one multiplication of the turn before and not for four.
    """
    value = U64(0)
    prefixes[0] = value
    whole = length // 4 * 4
    for at in range(0, whole, 4):
        one = (U64(code_points[at]) + U64(1)) * BASE
        two = (one + U64(code_points[at + 1]) + U64(1)) * BASE
        three = (two + U64(code_points[at + 2]) + U64(1)) * BASE
        four = (three + U64(code_points[at + 3]) + U64(1)) * BASE
        prefixes[at + 1] = value * BASE + one
        prefixes[at + 2] = value * BASE2 + two
        prefixes[at + 3] = value * BASE3 + three
        value = value * BASE4 + four
        prefixes[at + 4] = value
    for at in range(whole, length):
        value = (value + U64(code_points[at]) + U64(1)) * BASE
        prefixes[at + 1] = value


@kernel
def find_words(code_points, length, starts):
    """starts[k] = where word k of a normalised text begins, starts[words] = length + 1; return words."""
    starts[0] = 0
    words = U64(length > 0)
    for at in range(length):
        starts[words] = at + 1
        words += U64(code_points[at] == SPACE)
    starts[words] = length + 1
    return np.int64(words)


@kernel
def hash_shingles(code_points, length, ngram, by_words, scratch):
    """Write the 64-bit hash (`shingles.shingle_hash64`) of every shingle of a normalised text to
    `scratch.shingles`; return how many there are.

    The code points i…j−1 hash to prefixes[j] − prefixes[i] · baseʲ⁻ⁱ. The unit is chosen here and in
    `shingles.text_shingles`: `ngram` consecutive characters, or words with the spaces between them.
    """
    prefixes, powers, starts, shingles = scratch
    hash_prefixes(code_points, length, prefixes)
    units = find_words(code_points, length, starts) if by_words else length
    window = min(ngram, units)
    count = units - window + 1 if units > 0 else 0
    if by_words:
        for at in range(count):
            first, last = starts[at], starts[at + window] - 1
            shingles[at] = prefixes[last] - prefixes[first] * powers[last - first]
    else:
        ends = prefixes[window:]
        for at in range(count):
            shingles[at] = ends[at] - prefixes[at] * powers[window]
    return count


@kernel
def minhash(hashes, count, multipliers, increments, minima):
    """minima[p] = min over hashes[:count] of multipliers[p] · hash + increments[p] mod 2³².

    All arrays are uint32; the last three have one length, best a multiple of `LANES`. Eight hashes at a
    time, so that a minimum is loaded and stored once for eight products; the inner loop vectorises.
    """
    permutations = minima.size
    minima[:] = LARGEST
    whole = count // UNROLLED * UNROLLED
    for at in range(0, whole, UNROLLED):
        h0, h1, h2, h3 = hashes[at], hashes[at + 1], hashes[at + 2], hashes[at + 3]
        h4, h5, h6, h7 = hashes[at + 4], hashes[at + 5], hashes[at + 6], hashes[at + 7]
        for p in range(permutations):
            a, b = multipliers[p], increments[p]
            lower = min(min(U32(a * h0 + b), U32(a * h1 + b)), min(U32(a * h2 + b), U32(a * h3 + b)))
            upper = min(min(U32(a * h4 + b), U32(a * h5 + b)), min(U32(a * h6 + b), U32(a * h7 + b)))
            minima[p] = min(minima[p], min(lower, upper))
    for at in range(whole, count):
        for p in range(permutations):
            minima[p] = min(minima[p], U32(multipliers[p] * hashes[at] + increments[p]))


@kernel
def longest_text(offsets, rows):
    """Bytes of the longest text among `rows`."""
    longest = 0
    for row in rows:
        longest = max(longest, offsets[row + 1] - offsets[row])
    return longest


@kernel
def sign_texts(
    data, offsets, rows, positions, table, ngram, by_words, permutations, accept_any_form,
    signatures, shingle_counts, character_counts, text_hashes,
):  # fmt: skip
    """Sign the texts in `rows` of an Arrow array and write the results at `positions`.

    Args:
        data, offsets: uint8[:] and int64[:], the buffers of a large_string array.
        rows, positions: int64[r], where each text is read and where its result goes.
        ngram, by_words: units in a shingle, and whether they are words or characters.
        permutations: uint32[2, q], q ≥ num_perm a multiple of `LANES`.
        accept_any_form: the texts are in NFC, or as close as `unicodedata` gets.
        signatures: uint32[n, num_perm]. shingle_counts, character_counts: int32[n].
        text_hashes: uint64[n, 2].

    Returns:
        uint32[r], the status of each text. Nothing is written for a text whose status is not `OK`.
    """
    longest = longest_text(offsets, rows)
    code_points = np.empty(longest, np.uint32)
    scratch = shingle_scratch(longest, ngram, by_words)
    hashes = np.empty(longest, np.uint32)
    minima = np.empty(permutations.shape[1], np.uint32)
    statuses = np.zeros(rows.size, np.uint32)
    for index in range(rows.size):
        start, end = offsets[rows[index]], offsets[rows[index] + 1]
        length, characters, status = normalize_utf8(data, start, end, table, code_points)
        if accept_any_form:
            status &= ~MAYBE_NOT_NFC
        statuses[index] = status
        if status != OK:
            continue
        count = hash_shingles(code_points, length, ngram, by_words, scratch)
        for at in range(count):
            hashes[at] = mix32(U32(scratch.shingles[at] >> U64(32)))
        minhash(hashes, count, permutations[0], permutations[1], minima)
        target = positions[index]
        signatures[target] = minima[: signatures.shape[1]]
        shingle_counts[target] = count
        character_counts[target] = characters
        text_hashes[target, 0], text_hashes[target, 1] = hash_text(code_points, length)
    return statuses


@kernel
def fold_band_keys(signatures, rows_per_band, keys):
    """keys[band, document] = 64-bit hash of the band's minima.

    signatures: uint32[n, bands · rows_per_band]. keys: uint64[bands, n].
    """
    for document in range(keys.shape[1]):
        for band in range(keys.shape[0]):
            key = U64(0)
            for row in range(rows_per_band):
                key = mix64(key ^ U64(signatures[document, band * rows_per_band + row])) + U64(1)
            keys[band, document] = key


@kernel
def table_bits(count):
    """log₂ of the size of a table of which `count` shingles claim at most half."""
    bits = 4
    while (1 << bits) < 2 * count:
        bits += 1
    return bits


@kernel
def distinct(shingles, count, claims, out):
    """Write the distinct hashes of shingles[:count] to `out`, in any order; return how many.

    In rounds: every shingle claims the slot of its high bits, and the last to claim a slot is written.
    Those equal to it are done; the few others that wanted its slot go into the next round. Nothing has to
    be cleared, and no branch depends on a hash. Hash 0 is written as 1, for `survivors` needs a free one.

    shingles: uint64[:], used up. claims: uint32 scratch of at least 2 ** table_bits(count).
    """
    shift = U64(64 - table_bits(count))
    found = U64(0)
    while count > 0:
        for at in range(count):
            claims[shingles[at] >> shift] = at
        others = U64(0)
        for at in range(count):
            shingle = shingles[at]
            claimant = claims[shingle >> shift]
            out[found] = max(shingle, U64(1))
            found += U64(claimant == at)
            is_other = shingles[claimant] != shingle  # the claimant comes last: it is not overwritten yet
            shingles[others] = shingle
            others += U64(is_other)
        count = np.int64(others)
    return np.int64(found)


@kernel
def collect_shingles(
    data, offsets, rows, positions, table, ngram, by_words, accept_any_form, starts, shingle_sets, sizes
):
    """Write the set of 64-bit shingle hashes of the texts in `rows` at `positions`.

    Args:
        data, offsets, rows, positions, table, ngram, by_words, accept_any_form: as in `sign_texts`.
        starts: int64[n + 1]; set i may fill shingle_sets[starts[i] : starts[i + 1]], one place per shingle.
        shingle_sets: uint64[starts[n]]. sizes: int64[n], the number of distinct shingles.

    Returns:
        uint32[r], the status of each text.
    """
    longest = longest_text(offsets, rows)
    code_points = np.empty(longest, np.uint32)
    scratch = shingle_scratch(longest, ngram, by_words)
    claims = np.empty(1 << table_bits(longest), np.uint32)
    statuses = np.zeros(rows.size, np.uint32)
    for index in range(rows.size):
        start, end = offsets[rows[index]], offsets[rows[index] + 1]
        length, _, status = normalize_utf8(data, start, end, table, code_points)
        if accept_any_form:
            status &= ~MAYBE_NOT_NFC
        target = positions[index]
        if status == OK:
            count = hash_shingles(code_points, length, ngram, by_words, scratch)
            if count == starts[target + 1] - starts[target]:
                sizes[target] = distinct(scratch.shingles, count, claims, shingle_sets[starts[target] :])
            else:
                status = TEXT_CHANGED
        statuses[index] = status
    return statuses

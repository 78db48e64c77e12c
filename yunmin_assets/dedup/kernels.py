"""Compiled kernels: UTF-8 bytes of an Arrow buffer in, signatures or sets of shingles out.

No Python string is made on the way: bytes → normalised code points → rolling 64-bit hashes → MinHash,
one document at a time in scratch space the size of the longest document of the block.

Price on one core: about 4 ns per character to decode and normalise, 2 ns to roll the hash, 7 ns for 128
permutations, which is at the limit of the vector multiplier.

Every kernel releases the GIL; `text_blocks` runs blocks of documents on a pool of threads, so there is no
numba threading layer to choose and the result does not depend on the number of threads. They are all in
this one file because numba's disk cache notices a change in a kernel's own file only. For the same
reason, touch this file after changing a constant that is imported here.
"""

import numpy as np
from numba import njit

from yunmin_assets.dedup.normalize import CODE_POINT_MASK, DROPPED, MAYBE_NOT_NFC, SPACE, TABLE_SIZE
from yunmin_assets.dedup.shingles import SHINGLE_BASE

# mypy: allow-untyped-defs
# numba infers the types; the docstrings state them.

U32, U64 = np.uint32, np.uint64

OK = U32(0)
MALFORMED = U32(1)
"""The text is not UTF-8."""
TEXT_CHANGED = U32(2)
"""The text has another number of shingles than its signature says."""

LANES = 32
"""The MinHash loop runs over a multiple of this many permutations, or a scalar remainder costs a third."""
UNROLLED = 8
"""Shingles per turn of the MinHash loop: one load and store of the minima per eight shingles."""

BASE = U64(SHINGLE_BASE)
LARGEST = U32(0xFFFFFFFF)
LAST_CODE_POINT = U32(0x10FFFF)
LOW_SIX, LOW_SEVEN = U32(0x3F), U32(0x7F)


def _lead_bytes():
    """uint32[256], for a character of 1 to 3 bytes: the payload mask of its first byte, the shift that
    takes the bytes after its end out again, and its width, 8 bits each. Width 0: not a first byte."""
    table = np.zeros(256, np.uint32)
    for first, last, mask, shift, width in (
        (0x00, 0x7F, 0x7F, 12, 1),
        (0xC2, 0xDF, 0x1F, 6, 2),
        (0xE0, 0xEF, 0x0F, 0, 3),
    ):
        table[first : last + 1] = mask | shift << 8 | width << 16
    return table


LEAD_BYTES = _lead_bytes()


def announce_first_use(kernel, log):
    """Say why the first call of a kernel in a process takes longer."""
    if not kernel.signatures:
        log(
            "loading compiled kernels; the first run on a machine compiles them (some 5 to 15 s, then cached)"
        )


@njit(cache=True, nogil=True)
def character_starts(data, start, end, starts):
    """Write where the characters of data[start:end] start, relative to `start`, then the size of the text.

    Returns the number of characters. There is no branch on the bytes, so none is mispredicted.
    """
    count = 0
    for position in range(start, end):
        starts[count] = position - start
        count += (data[position] & np.uint8(0xC0)) != np.uint8(0x80)
    starts[count] = end - start
    return count


@njit(cache=True, nogil=True)
def decode_guarded(text, at, width):
    """The character of `width` bytes at `at`, reading no further, and whether its first byte agrees."""
    first = U32(text[at])
    if first < U32(0x80):
        return first, width == U64(1)
    if U32(0xC2) <= first < U32(0xE0):
        code_point, expected = first & U32(0x1F), U64(2)
    elif U32(0xE0) <= first < U32(0xF0):
        code_point, expected = first & U32(0x0F), U64(3)
    elif U32(0xF0) <= first < U32(0xF5):
        code_point, expected = first & U32(0x07), U64(4)
    else:
        return first, False
    if width != expected:
        return first, False
    for offset in range(U64(1), width):
        code_point = (code_point << U32(6)) | (U32(text[at + offset]) & LOW_SIX)
    return min(code_point, LAST_CODE_POINT), code_point <= LAST_CODE_POINT


@njit(cache=True, nogil=True)
def normalize_utf8(data, start, end, table, code_points):
    """Normalise the text data[start:end] into `code_points`.

    First the starts of the characters, then each character by itself: nothing waits for the width of the
    character before, and there is no branch on it (a Korean word would mispredict two).

    Args:
        data: uint8[:]; what lies at or after `end` does not influence a well-formed text.
        table: `normalize.normalization_table`.
        code_points: uint32[:], room for one code point per byte of the text and one more.

    Returns:
        (length, characters, status): normalised code points written, characters of the text before, and
        `OK` or the flags `MAYBE_NOT_NFC` and `MALFORMED`.
    """
    characters = character_starts(data, start, end, code_points)
    text = data[start:]
    readable = U64(text.size)
    length = 0
    status = OK
    malformed = code_points[0]  # not 0: the text begins in the middle of a character
    after_space = U32(1)
    for index in range(characters):
        at = U64(code_points[index])
        width = U64(code_points[index + 1]) - at
        lead = LEAD_BYTES[text[at]]
        if lead == U32(0) or at + U64(3) > readable:
            code_point, agrees = decode_guarded(text, at, width)
            malformed |= U32(not agrees)
            entry = table[code_point] if code_point < U32(TABLE_SIZE) else code_point
        else:
            second, third = U32(text[at + U64(1)]) & LOW_SIX, U32(text[at + U64(2)]) & LOW_SIX
            payload = ((U32(text[at]) & lead & LOW_SEVEN) << U32(12)) | (second << U32(6)) | third
            entry = table[payload >> ((lead >> U32(8)) & U32(0xFF))]
            malformed |= U32(width) ^ (lead >> U32(16))
        status |= entry & MAYBE_NOT_NFC
        code_point = entry & CODE_POINT_MASK
        code_points[length] = code_point
        is_space, is_dropped = U32(code_point == SPACE), U32(code_point == DROPPED)
        length += np.int64(U32(1) ^ (is_dropped | (is_space & after_space)))
        after_space = is_space | (is_dropped & after_space)
    if length > 0 and code_points[length - 1] == SPACE:
        length -= 1
    return length, characters, status if malformed == OK else status | MALFORMED


@njit(cache=True, nogil=True)
def roll_shingles(code_points, length, ngram, shingles):
    """Write the 64-bit hash of every shingle (`shingles.shingle_hash64`); return how many there are."""
    if length == 0:
        return 0
    window = min(ngram, length)
    value = U64(0)
    leaving_factor = BASE
    for index in range(window):
        value = (value + U64(code_points[index]) + U64(1)) * BASE
        leaving_factor *= BASE
    shingles[0] = value
    for index in range(window, length):
        entering = (U64(code_points[index]) + U64(1)) * BASE
        leaving = (U64(code_points[index - window]) + U64(1)) * leaving_factor
        value = value * BASE + (entering - leaving)
        shingles[index - window + 1] = value
    return length - window + 1


@njit(cache=True, nogil=True)
def mix32(value):
    """MurmurHash3's 32-bit finalizer, a bijection: datasketch's pre-mix."""
    value = U32((value ^ (value >> U32(16))) * U32(0x85EBCA6B))  # the product is a uint64 to numba
    value = U32((value ^ (value >> U32(13))) * U32(0xC2B2AE35))
    return value ^ (value >> U32(16))


@njit(cache=True, nogil=True)
def mix64(value):
    """MurmurHash3's 64-bit finalizer, a bijection."""
    value ^= value >> U64(33)
    value *= U64(0xFF51AFD7ED558CCD)
    value ^= value >> U64(33)
    value *= U64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> U64(33))


@njit(cache=True, nogil=True)
def rotate(value, bits):
    return (value << U64(bits)) | (value >> U64(64 - bits))


@njit(cache=True, nogil=True)
def hash_text(code_points, length):
    """MurmurHash3 x64 128 (seed 0) of the code points as little-endian 32-bit words: two uint64."""
    factor1, factor2 = U64(0x87C37B91114253D5), U64(0x4CF5AD432745937F)
    high, low = U64(0), U64(0)
    whole = length // 4 * 4
    for at in range(0, whole, 4):
        word1 = U64(code_points[at]) | (U64(code_points[at + 1]) << U64(32))
        word2 = U64(code_points[at + 2]) | (U64(code_points[at + 3]) << U64(32))
        high ^= rotate(word1 * factor1, 31) * factor2
        high = (rotate(high, 27) + low) * U64(5) + U64(0x52DCE729)
        low ^= rotate(word2 * factor2, 33) * factor1
        low = (rotate(low, 31) + high) * U64(5) + U64(0x38495AB5)
    rest = length - whole
    if rest == 3:
        low ^= rotate(U64(code_points[whole + 2]) * factor2, 33) * factor1
    if rest > 0:
        word1 = U64(code_points[whole])
        if rest > 1:
            word1 |= U64(code_points[whole + 1]) << U64(32)
        high ^= rotate(word1 * factor1, 31) * factor2
    size = U64(4 * length)
    high, low = high ^ size, low ^ size
    high += low
    low += high
    high, low = mix64(high), mix64(low)
    high += low
    low += high
    return high, low


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def longest_text(offsets, rows):
    """Bytes of the longest text among `rows`."""
    longest = 0
    for row in rows:
        longest = max(longest, offsets[row + 1] - offsets[row])
    return longest


@njit(cache=True, nogil=True)
def sign_texts(
    data, offsets, rows, positions, table, ngram, permutations, accept_any_form,
    signatures, shingle_counts, character_counts, text_hashes,
):  # fmt: skip
    """Sign the texts in `rows` of an Arrow array and write the results at `positions`.

    Args:
        data, offsets: uint8[:] and int64[:], the buffers of a large_string array.
        rows, positions: int64[r], where each text is read and where its result goes.
        permutations: uint32[2, q], q ≥ num_perm a multiple of `LANES`.
        accept_any_form: the texts are in NFC, or as close as `unicodedata` gets.
        signatures: uint32[n, num_perm]. shingle_counts, character_counts: int32[n].
        text_hashes: uint64[n, 2].

    Returns:
        uint32[r], the status of each text. Nothing is written for a text whose status is not `OK`.
    """
    longest = longest_text(offsets, rows)
    code_points = np.empty(longest + 1, np.uint32)
    shingles = np.empty(longest, np.uint64)
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
        count = roll_shingles(code_points, length, ngram, shingles)
        for at in range(count):
            hashes[at] = mix32(U32(shingles[at] >> U64(32)))
        minhash(hashes, count, permutations[0], permutations[1], minima)
        target = positions[index]
        signatures[target] = minima[: signatures.shape[1]]
        shingle_counts[target] = count
        character_counts[target] = characters
        text_hashes[target, 0], text_hashes[target, 1] = hash_text(code_points, length)
    return statuses


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def table_bits(count):
    """log₂ of the size of an open-addressing table for `count` hashes: at most half of it fills."""
    bits = 4
    while (1 << bits) < 2 * count:
        bits += 1
    return bits


@njit(cache=True, nogil=True)
def distinct(shingles, count, slots, out):
    """Write the distinct hashes of shingles[:count] to `out`, in the order of appearance; return how many.

    slots: uint64 scratch of at least 2 ** table_bits(count). A free slot holds 0, so hash 0 counts as 1.
    """
    bits = table_bits(count)
    mask = U64((1 << bits) - 1)
    shift = U64(64 - bits)
    slots[: 1 << bits] = U64(0)
    found = 0
    for at in range(count):
        shingle = max(shingles[at], U64(1))
        slot = shingle >> shift
        while slots[slot] != U64(0) and slots[slot] != shingle:
            slot = (slot + U64(1)) & mask
        if slots[slot] == U64(0):
            slots[slot] = shingle
            out[found] = shingle
            found += 1
    return found


@njit(cache=True, nogil=True)
def collect_shingles(
    data, offsets, rows, positions, table, ngram, accept_any_form, starts, shingle_sets, sizes
):
    """Write the set of 64-bit shingle hashes of the texts in `rows` at `positions`.

    Args:
        data, offsets, rows, positions, table, ngram, accept_any_form: as in `sign_texts`.
        starts: int64[n + 1]; set i may fill shingle_sets[starts[i] : starts[i + 1]], one place per shingle.
        shingle_sets: uint64[starts[n]]. sizes: int64[n], the number of distinct shingles.

    Returns:
        uint32[r], the status of each text.
    """
    longest = longest_text(offsets, rows)
    code_points = np.empty(longest + 1, np.uint32)
    shingles = np.empty(longest, np.uint64)
    slots = np.empty(1 << table_bits(longest), np.uint64)
    statuses = np.zeros(rows.size, np.uint32)
    for index in range(rows.size):
        start, end = offsets[rows[index]], offsets[rows[index] + 1]
        length, _, status = normalize_utf8(data, start, end, table, code_points)
        if accept_any_form:
            status &= ~MAYBE_NOT_NFC
        target = positions[index]
        if status == OK:
            count = roll_shingles(code_points, length, ngram, shingles)
            if count == starts[target + 1] - starts[target]:
                sizes[target] = distinct(shingles, count, slots, shingle_sets[starts[target] :])
            else:
                status = TEXT_CHANGED
        statuses[index] = status
    return statuses

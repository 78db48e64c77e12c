"""Who survives among the candidates: compiled decisions over exact Jaccard.

Documents are numbered in priority order, 0 the best. Two rules:

`anchored` is the greedy maximal independent set in priority order: a document goes only if it has
Jaccard ≥ threshold to a document that stays, and no two documents that stay and share a bucket have.
A document is compared with kept documents only, so a bucket of thousands of near-identical texts costs
one comparison each.

`linked` joins every verified pair (connected components, as SlimPajama does) and keeps the best of each
component. Chains make it remove documents that resemble no survivor.

A comparison stops as soon as too many shingles have missed: J(A, B) ≥ t needs
|A ∩ B| ≥ t / (1 + t) · (|A| + |B|), and min / max of the sizes ≥ t at all.
"""

# Compiled with 30a42715dbf9

from typing import Literal

import numpy as np
import numpy.typing as npt

from yunmin_assets.compiling import kernel
from yunmin_assets.dedup.buckets import Buckets
from yunmin_assets.dedup.shingle_sets import ShingleSets
from yunmin_assets.dedup.union_find import find_root, flatten, join

# mypy: allow-untyped-defs
# numba infers the types of the kernels; the docstrings state them.

U64 = np.uint64
FREE = U64(0)
"""A free slot of a hash table; no shingle set holds 0."""
BELOW = -1.0
"""A Jaccard below what was asked for."""
ROUNDING_SLACK = 1
"""Misses allowed beyond the bound, for its rounding: the Jaccard itself is then compared exactly."""


def choose_survivors(
    buckets: Buckets, sets: ShingleSets, threshold: float, rule: Literal["anchored", "linked"]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The survivor of every candidate and the exact Jaccard to it.

    Args:
        buckets: over c candidates in priority order.
        sets: the shingle sets of the candidates.
        threshold: the Jaccard that a pair needs; 0 if sharing a bucket is enough.

    Returns:
        survivors: int64[c], the candidate's own index if it stays. jaccards: float64[c].
    """
    table = np.empty(1 << _table_bits(int(sets.sizes.max(initial=0))), np.uint64)
    if rule == "anchored":
        return _anchored(
            buckets.bucket_of, buckets.starts, sets.hashes, sets.starts, sets.sizes, threshold, table
        )
    components = np.arange(len(buckets.candidates))
    members = _members(buckets.bucket_of, buckets.starts)
    if threshold > 0:
        _link_verified(
            members, buckets.bucket_of, buckets.starts, sets.hashes, sets.starts, sets.sizes,
            threshold, table, components,
        )  # fmt: skip
    else:
        _link_buckets(members, buckets.starts, components)
    flatten(components)
    survivors = components
    order = np.argsort(survivors, kind="stable")
    jaccards = _jaccards_to_survivors(order, survivors, sets.hashes, sets.starts, sets.sizes, table)
    return survivors, jaccards


@kernel
def _table_bits(count):
    """log₂ of the size of a hash table that `count` shingles fill to a quarter or less."""
    bits = 4
    while (1 << bits) < 4 * count:
        bits += 1
    return bits


@kernel
def _load(table, shingles):
    """Put a set into the table; return the bits of the table in use."""
    bits = _table_bits(shingles.size)
    mask, shift = U64((1 << bits) - 1), U64(64 - bits)
    table[: 1 << bits] = FREE
    for shingle in shingles:
        slot = shingle >> shift
        while table[slot] != FREE:
            slot = (slot + U64(1)) & mask
        table[slot] = shingle
    return bits


@kernel
def _jaccard(table, bits, loaded, shingles, floor):
    """Exact Jaccard of the set in the table (`loaded` shingles) and another; `BELOW` if under `floor`."""
    other = shingles.size
    if loaded == 0 or other == 0 or min(loaded, other) / max(loaded, other) < floor:
        return BELOW
    needed = int(np.ceil(floor / (1.0 + floor) * (loaded + other)))
    misses_left = other - needed + ROUNDING_SLACK
    mask, shift = U64((1 << bits) - 1), U64(64 - bits)
    common = 0
    for shingle in shingles:
        slot = shingle >> shift
        while table[slot] != FREE and table[slot] != shingle:
            slot = (slot + U64(1)) & mask
        if table[slot] == shingle:
            common += 1
        else:
            misses_left -= 1
            if misses_left < 0:
                return BELOW
    jaccard = common / (loaded + other - common)
    return jaccard if jaccard >= floor else BELOW


@kernel
def _set(hashes, set_starts, set_sizes, document):
    return hashes[set_starts[document] : set_starts[document] + set_sizes[document]]


@kernel
def _best_kept(
    document, bucket_of, kept, starts, filled, seen, hashes, set_starts, set_sizes, threshold, table
):
    """The kept document of highest Jaccard ≥ threshold (ties: better priority), or −1, and that Jaccard."""
    best, best_jaccard = -1, threshold
    own = _set(hashes, set_starts, set_sizes, document)
    bits = 0
    for bucket in bucket_of[document]:
        if bucket < 0:
            continue
        for at in range(starts[bucket], starts[bucket] + filled[bucket]):
            other = kept[at]
            if seen[other] == document:
                continue
            seen[other] = document
            if bits == 0:
                bits = _load(table, own)
            others = _set(hashes, set_starts, set_sizes, other)
            jaccard = _jaccard(table, bits, own.size, others, best_jaccard)
            if jaccard > best_jaccard or (jaccard == best_jaccard and (best < 0 or other < best)):
                best, best_jaccard = other, jaccard
    return best, best_jaccard


@kernel
def _anchored(bucket_of, starts, hashes, set_starts, set_sizes, threshold, table):
    count = bucket_of.shape[0]
    kept = np.empty(starts[-1], np.int64)
    filled = np.zeros(starts.size - 1, np.int64)
    seen = np.full(count, -1, np.int64)
    survivors = np.arange(count)
    jaccards = np.ones(count)
    for document in range(count):
        best, jaccard = _best_kept(
            document, bucket_of, kept, starts, filled, seen, hashes, set_starts, set_sizes, threshold, table
        )
        if best >= 0:
            survivors[document], jaccards[document] = best, jaccard
            continue
        for bucket in bucket_of[document]:
            if bucket >= 0:
                kept[starts[bucket] + filled[bucket]] = document
                filled[bucket] += 1
    return survivors, jaccards


@kernel
def _members(bucket_of, starts):
    """The documents of every bucket in ascending order: bucket b is members[starts[b] : starts[b + 1]]."""
    members = np.empty(starts[-1], np.int64)
    filled = np.zeros(starts.size - 1, np.int64)
    for document in range(bucket_of.shape[0]):
        for bucket in bucket_of[document]:
            if bucket >= 0:
                members[starts[bucket] + filled[bucket]] = document
                filled[bucket] += 1
    return members


@kernel
def _link_buckets(members, starts, components):
    """Unverified: a bucket is one component."""
    for bucket in range(starts.size - 1):
        for at in range(starts[bucket] + 1, starts[bucket + 1]):
            join(components, members[starts[bucket]], members[at])


@kernel
def _met_before(bucket_of, first, second, bucket):
    """Whether two documents share a bucket of an earlier band, where they were compared or already joined."""
    for band in range(bucket_of.shape[1]):
        if bucket_of[first, band] == bucket:
            return False
        if bucket_of[first, band] >= 0 and bucket_of[first, band] == bucket_of[second, band]:
            return True
    return False


@kernel
def _first_match(
    place, document, bucket, members, following, bucket_of, hashes, set_starts, set_sizes, threshold, table, bits
):  # fmt: skip
    """The first document from `place` on with Jaccard ≥ threshold, or −1, and the bits of the table in use.

    The table is loaded with the set of `document` unless `bits` says that it already is.
    """
    own = _set(hashes, set_starts, set_sizes, document)
    while place >= 0:
        other = members[place]
        if not _met_before(bucket_of, other, document, bucket):
            if bits == 0:
                bits = _load(table, own)
            others = _set(hashes, set_starts, set_sizes, other)
            if _jaccard(table, bits, own.size, others, threshold) >= threshold:
                return other, bits
        place = following[place]
    return -1, bits


@kernel
def _link_verified(
    members, bucket_of, starts, hashes, set_starts, set_sizes, threshold, table, components
):  # fmt: skip
    """Join every pair of a bucket with Jaccard ≥ threshold that is not joined yet.

    The documents of a bucket are kept in groups (lists of places chained by `following`), one per
    component met so far. A document is compared with the groups of other components only, and with
    a group until the first match, so near-identical documents cost one comparison each.
    """
    largest = 0
    for bucket in range(starts.size - 1):
        largest = max(largest, starts[bucket + 1] - starts[bucket])
    heads = np.empty(largest, np.int64)
    following = np.empty(members.size, np.int64)
    for bucket in range(starts.size - 1):
        groups = 0
        for at in range(starts[bucket], starts[bucket + 1]):
            document = members[at]
            bits = 0
            home = -1
            for group in range(groups):
                match = members[heads[group]]
                if find_root(components, match) != find_root(components, document):
                    match, bits = _first_match(
                        heads[group], document, bucket, members, following,
                        bucket_of, hashes, set_starts, set_sizes, threshold, table, bits,
                    )  # fmt: skip
                    if match < 0:
                        continue
                    join(components, match, document)
                home = group
            if home < 0:
                home = groups
                heads[home] = -1
                groups += 1
            following[at] = heads[home]
            heads[home] = at


@kernel
def _jaccards_to_survivors(order, survivors, hashes, set_starts, set_sizes, table):
    """order: int64[c], the documents sorted by survivor, so that each survivor's set is loaded once."""
    jaccards = np.ones(order.size)
    loaded = -1
    bits = size = 0
    for document in order:
        survivor = survivors[document]
        if survivor == document:
            continue
        if survivor != loaded:
            loaded, size = survivor, set_sizes[survivor]
            bits = _load(table, _set(hashes, set_starts, set_sizes, survivor))
        others = _set(hashes, set_starts, set_sizes, document)
        jaccards[document] = max(0.0, _jaccard(table, bits, size, others, 0.0))
    return jaccards

"""MurmurHash3 (Austin Appleby, public domain), compiled: its finalizers, and its 128-bit hash of a text."""

import numpy as np

from yunmin_assets.compiling import kernel

# mypy: allow-untyped-defs
# numba infers the types; the docstrings state them.

U32, U64 = np.uint32, np.uint64


@kernel
def mix32(value):
    """MurmurHash3's 32-bit finalizer, a bijection: datasketch's pre-mix."""
    value = U32((value ^ (value >> U32(16))) * U32(0x85EBCA6B))  # the product is a uint64 to numba
    value = U32((value ^ (value >> U32(13))) * U32(0xC2B2AE35))
    return value ^ (value >> U32(16))


@kernel
def mix64(value):
    """MurmurHash3's 64-bit finalizer, a bijection."""
    value ^= value >> U64(33)
    value *= U64(0xFF51AFD7ED558CCD)
    value ^= value >> U64(33)
    value *= U64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> U64(33))


@kernel
def rotate(value, bits):
    return (value << U64(bits)) | (value >> U64(64 - bits))


@kernel
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

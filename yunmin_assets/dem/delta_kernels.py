"""Sums over differences, compiled: what is read once and never written cannot be had from PyTorch in one pass."""

from typing import Any

import numpy as np

from yunmin_assets.compiling import kernel

HALF = np.uint32(16)
"""A bfloat16 is the upper half of a float32."""
DIGIT_BITS = 16
DIGITS = 1 << DIGIT_BITS
ANY = -1


@kernel
def add_difference(total: Any, weight: Any, tuned: Any, before: Any) -> None:
    """total += weight · (tuned − before), float32 or float64 [elements]; `tuned` may also be the narrower of them."""
    for i in range(len(total)):
        total[i] += weight * (tuned[i] - before[i])


@kernel
def add_bfloat16_difference(total: Any, weight: Any, tuned: Any, before: Any) -> None:
    """The same with `tuned` as the bits of bfloat16 numbers, uint16 [elements]."""
    for i in range(len(total)):
        value = np.uint32(np.uint32(tuned[i]) << HALF).view(np.float32)
        total[i] += weight * (value - before[i])


@kernel
def count_digits(counts: Any, bits: Any, upper: Any) -> None:
    """Count the upper halves of 32-bit numbers that are not negative, or the lower halves beneath one upper half.

    Args:
        counts: int64 [65536], added to.
        bits: int32 [elements].
        upper: The upper half, or `ANY` to count these.
    """
    for i in range(len(bits)):
        high = bits[i] >> DIGIT_BITS
        if upper == ANY:
            counts[high] += 1
        elif high == upper:
            counts[bits[i] & (DIGITS - 1)] += 1

"""64-bit hashes of document ids, so that millions of ids are compared without holding them.

A hash that occurs twice is only a suspicion: callers compare the ids themselves, or a second hash.
"""

# Compiled with f817ef44f718

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from yunmin_assets.compiling import kernel
from yunmin_assets.dedup.kernels import mix64
from yunmin_assets.dedup.text_blocks import string_buffers

# mypy: allow-untyped-defs

FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def hash_ids(ids: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """FNV-1a of the UTF-8 bytes, mixed: strings without nulls → uint64[n]."""
    hashes = [np.empty(0, np.uint64)]
    for chunk in ids.chunks:
        data, offsets = string_buffers(chunk)
        hashes.append(_hash_strings(data, offsets))
    return np.concatenate(hashes)


@kernel
def _hash_strings(data, offsets):
    hashes = np.empty(offsets.size - 1, np.uint64)
    for row in range(hashes.size):
        value = FNV_OFFSET
        for at in range(offsets[row], offsets[row + 1]):
            value = (value ^ np.uint64(data[at])) * FNV_PRIME
        hashes[row] = mix64(value)
    return hashes

"""The permutations of datasketch's `affine32` MinHash scheme, without importing datasketch.

datasketch ≥ 2.0 mixes a 32-bit hash with the MurmurHash3 finalizer, then permutes it with
`a·h + b mod 2³²`, a odd, a bijection (https://github.com/ekzhu/datasketch/issues/212). `kernels.py`
computes the same; drawing the same (a, b) makes a row of signatures a datasketch MinHash.
"""

import numpy as np
import numpy.typing as npt


def minhash_permutations(num_perm: int, seed: int) -> npt.NDArray[np.uint32]:
    """What `datasketch.MinHash(num_perm, seed).permutations` holds: uint32[2, num_perm], rows a and b."""
    generator = np.random.RandomState(seed)
    half_multipliers = generator.randint(0, 1 << 31, num_perm, dtype=np.uint32)
    increments = generator.randint(0, 1 << 32, num_perm, dtype=np.uint32)
    return np.stack([half_multipliers * np.uint32(2) + np.uint32(1), increments])

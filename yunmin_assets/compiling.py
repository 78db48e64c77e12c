"""How kernels are compiled: cached on disk, without the GIL, and with 512-bit vectors where there are any.

LLVM keeps to 256-bit vectors on most Intel processors with AVX-512, because the first of them slowed their
clock down for more. The kernels gain (MinHash of 24 million shingles: 0.13 instead of 0.17 s), and numba lets
nobody ask for vectors per function. So importing this module adds `-prefer-256-bit` to
`numba.config.CPU_FEATURES`, which numba reads once in a process, when the first function is declared. It is
part of the key of numba's disk cache. A NUMBA_CPU_FEATURES of the user's is left as it is, and so is a
processor without AVX-512.
"""

import numba
from numba import njit
from numba.core.codegen import get_host_cpu_features


def ask_for_wide_vectors() -> bool:
    """Set numba's processor features unless the user did; return whether AVX-512 is among them."""
    features = numba.config.CPU_FEATURES
    if features is None:
        features = get_host_cpu_features()
        if _has_avx512(features):
            numba.config.CPU_FEATURES = f"{features},-prefer-256-bit"
    return _has_avx512(features)


def _has_avx512(features: str) -> bool:
    return "+avx512f" in features.split(",")


HAS_AVX512 = ask_for_wide_vectors()

kernel = njit(cache=True, nogil=True)
"""Decorator of a compiled function; taken from here, it cannot come before the vectors are asked for."""

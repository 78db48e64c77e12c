"""AVX-512 changes the speed and nothing else."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.codegen import get_host_cpu_features

from yunmin_assets import dedup
from yunmin_assets.dedup.compress import LANES, remove_value

REPORT = """
import hashlib, pyarrow as pa
from numba.core.registry import cpu_target
from yunmin_assets.dedup import DedupConfig, compute_signatures
texts = ["동해 물과 백두산이,  마르고 닳도록! (English) 😀 " * repeats for repeats in range(30)]
signatures = compute_signatures(pa.array(texts), DedupConfig())
digest = hashlib.sha256()
for name, values in sorted(vars(signatures).items()):
    digest.update(values.tobytes())
_, _, features = cpu_target.target_context.codegen().magic_tuple()
print(digest.hexdigest(), features)
"""


def signed_with(**environment: str) -> tuple[str, str]:
    """A hash of some signatures, and the processor features that they were compiled for."""
    command = [sys.executable, "-c", REPORT]
    found = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    digest, features = found.stdout.split()
    return digest, features


def test_without_avx512_the_signatures_are_the_same_and_what_the_user_set_stays() -> None:
    host = get_host_cpu_features()
    narrow = ",".join(
        feature.replace("+", "-") if "avx512" in feature or "avx10" in feature else feature
        for feature in host.split(",")
    )
    by_default, features = signed_with()
    assert signed_with(NUMBA_CPU_FEATURES=narrow) == (by_default, narrow)
    assert features == (f"{host},-prefer-256-bit" if "+avx512f" in host.split(",") else host)


@given(st.lists(st.integers(0, 3), max_size=5 * LANES), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_removing_a_value_closes_the_gaps(numbers: list[int], largest: int) -> None:
    choices = np.array([7, 0, largest, 2**31], np.uint32)
    values = np.concatenate([choices[numbers], choices])
    expected = [value for value in values[: len(numbers)].tolist() if value != 7]
    behind = values[len(numbers) :].copy()
    kept = remove_value(values, len(numbers), np.uint32(7))
    assert values[:kept].tolist() == expected
    assert values[len(numbers) :].tolist() == behind.tolist()


DEDUP = Path(dedup.__file__).parent
COMPILED_WITH = {
    "kernels.py": ("../compiling.py", "compress.py", "murmur3.py", "normalize.py", "shingles.py"),
    "boilerplate/paragraphs.py": ("../compiling.py", "kernels.py"),
    "components.py": ("union_find.py",),
    "id_hashes.py": ("murmur3.py",),
    "previous.py": ("murmur3.py",),
    "survivors.py": ("union_find.py",),
}


@pytest.mark.parametrize("name", COMPILED_WITH)
def test_a_change_of_imported_code_shows_in_the_file_of_the_kernels(name: str) -> None:
    """Numba keeps compiled code until the kernel's own file changes: write the digest there, and it does."""
    digest = hashlib.sha256(b"".join((DEDUP / imported).read_bytes() for imported in COMPILED_WITH[name]))
    assert f"# Compiled with {digest.hexdigest()[:12]}" in (DEDUP / name).read_text()

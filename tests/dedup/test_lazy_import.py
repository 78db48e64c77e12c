"""Importing the stage is cheap; its names are there when asked for."""

import subprocess
import sys

import pytest

from yunmin_assets import dedup


def test_the_package_and_its_config_do_not_import_numba_or_pyarrow() -> None:
    script = (
        "import sys, yunmin_assets.dedup, yunmin_assets.dedup.config; "
        "print({'numba', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(dedup, name) is not None for name in dedup.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dedup.nothing  # type: ignore[attr-defined]


RUN_ALL_KERNELS = """
import pyarrow as pa
from yunmin_assets.dedup import DedupConfig, deduplicate, kernels, survivors

text = "동해 물과 백두산이 마르고 닳도록 하느님이 보우하사 우리나라 만세"
deduplicate(pa.table({"id": ["a", "b"], "text": [text, text + " 만"]}), DedupConfig(bands=64, rows=1))
used = [kernels.sign_texts, kernels.fold_band_keys, kernels.collect_shingles, survivors._anchored]
print([(len(kernel.stats.cache_hits), len(kernel.stats.cache_misses)) for kernel in used])
"""


def test_compiled_kernels_are_cached_on_disk() -> None:
    """The second process finds every kernel that the first one compiled, and compiles none again."""
    for _ in range(2):
        command = [sys.executable, "-c", RUN_ALL_KERNELS]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[(1, 0), (1, 0), (1, 0), (1, 0)]"

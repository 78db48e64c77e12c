"""The GPU benchmark says when there is no GPU, measures what it claims, and notices a difference."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.gpu import NO_GPU, beyond_tolerance, compare, differences, table
from tests.conftest import REPOSITORY
from tests.language_model.toy import one_thread


def test_without_a_gpu_it_says_so_and_what_to_do() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == NO_GPU
    assert result.stdout == ""
    assert result.stderr.startswith("no CUDA GPU is visible here") and "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def runs():
    """What a person sees, with this machine's CPU in the place of the GPU."""
    with one_thread():
        return compare([("cpu", "float32"), ("cpu", "float32"), ("cpu", "bfloat16")], 3, ["mamba2"])


def test_the_same_device_gives_the_same_losses_and_scores(runs) -> None:
    assert differences(runs[1], runs[0]) == (0.0, 0.0)
    assert 0 < differences(runs[2], runs[0])[0] < 0.1
    assert beyond_tolerance(runs) == []
    assert len(runs[0].losses) == 3 and len(runs[0].scores) == 32 and min(runs[0].scores) > 0
    assert runs[0].tokens_per_second > 0


def test_a_difference_beyond_the_tolerance_is_named(runs) -> None:
    other = replace(runs[1], device="cuda", losses=[loss + 0.03 for loss in runs[1].losses])
    assert beyond_tolerance([runs[0], other]) == [
        "mamba2 on cuda in float32: losses differ by 0.0300 nats, more than 0.02"
    ]
    broken = replace(runs[1], device="cuda", scores=[float("nan")] * 32)
    assert "scores differ by nan" in beyond_tolerance([runs[0], broken])[0]


def test_the_table_has_a_row_for_each_run(runs) -> None:
    lines = table(runs).splitlines()
    assert len(lines) == 2 + 3
    assert lines[4].startswith("| mamba2, cpu, bfloat16")

"""Linux tells what a process takes; where nobody tells, that is said."""

import resource
import subprocess
import sys

import pytest

from yunmin_assets.process_memory import PEAK_RESIDENT, RESIDENT, WITHOUT_FILES, memory_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
MEGABYTE = 1 << 20


def test_figures_are_bytes_and_fit_together() -> None:
    now, peak, own = (memory_bytes(field) for field in (RESIDENT, PEAK_RESIDENT, WITHOUT_FILES))
    assert now is not None and peak is not None and own is not None
    assert MEGABYTE < own <= now <= peak
    page = resource.getpagesize()
    assert now % page == 0 and now < 64 * 1024 * MEGABYTE


def test_memory_of_another_process_is_told_until_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert (memory_bytes(RESIDENT, process.pid) or 0) > 0
    assert memory_bytes(RESIDENT, process.pid) is None

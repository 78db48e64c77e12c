"""A killed merge leaves nothing half written and goes on where it was; a larger model takes no more memory."""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.dem.disasters import in_another_process, killed_after_shards, killed_at, merging
from tests.dem.synthetic_checkpoint import make_synthetic
from tests.language_model.toy import folder_bytes
from yunmin_assets.dem import merge_checkpoints
from yunmin_assets.process_memory import WITHOUT_FILES, memory_bytes

KILLS = 5
LARGEST_PEAK = 250e6
GROWTH_BY_CHANCE = 8e6


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Six shards of half a megabyte."""
    return make_synthetic(tmp_path_factory.mktemp("sharded"), rows=[512] * 6)


@pytest.mark.parametrize("keeps_shards", [True, False])
def test_a_merge_killed_at_any_moment_is_never_half_there_and_goes_on_to_the_same_bytes(
    keeps_shards, sharded, tmp_path
):
    given = (sharded.base, sharded.diffs, sharded.weights)
    merge_checkpoints(*given, tmp_path / "whole")
    seconds = seconds_of_a_merge(given, tmp_path / "timed")
    out, work = tmp_path / "merged", tmp_path / "work" if keeps_shards else None
    moments, kills = random.Random(int(keeps_shards)), 0
    while kills < KILLS:
        was_killed = killed_at(moments.uniform(0, seconds), merging, *given, out, work)
        kills += was_killed
        if out.exists():  # also possible when it was killed at the very end
            assert folder_bytes(out) == folder_bytes(tmp_path / "whole")
            shutil.rmtree(out)
            seconds *= 1 if was_killed else 0.9
    merge_checkpoints(*given, out, work_dir=work)
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("merged")) == ["merged"]


def seconds_of_a_merge(given, out):
    """In another process, whose server has been started."""
    for name in ("first", "second"):
        started = time.monotonic()
        assert not killed_at(60, merging, *given, out.with_name(name), None)
    return time.monotonic() - started


@pytest.mark.parametrize("count", [0, 1, 5])
def test_finished_shards_are_not_merged_again(count, sharded, tmp_path):
    given = (sharded.base, sharded.diffs, sharded.weights)
    arguments = (*given, tmp_path / "merged", tmp_path / "work")
    assert in_another_process(killed_after_shards, count, *arguments) == -signal.SIGKILL
    assert not (tmp_path / "merged").exists()
    other = merge_checkpoints(
        sharded.base,
        sharded.diffs,
        {"dense": 0.7, "factored": 0.0},
        tmp_path / "other",
        work_dir=tmp_path / "work",
    )
    assert other.resumed_shards == 0, "a merge with other weights shares nothing"
    result = merge_checkpoints(*given, tmp_path / "merged", work_dir=tmp_path / "work")
    assert (result.shards, result.resumed_shards) == (6, count)
    merge_checkpoints(*given, tmp_path / "at once")
    assert folder_bytes(tmp_path / "merged") == folder_bytes(tmp_path / "at once")
    assert list((tmp_path / "work").iterdir()) == [], "nothing is left behind"


def test_a_base_that_was_changed_after_the_kill_begins_a_new_merge_and_is_refused(sharded, tmp_path):
    base = shutil.copytree(sharded.base, tmp_path / "base")
    arguments = (base, sharded.diffs, sharded.weights, tmp_path / "merged", tmp_path / "work")
    assert in_another_process(killed_after_shards, 2, *arguments) == -signal.SIGKILL
    first = sorted(base.glob("*.safetensors"))[0]
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    with pytest.raises(ValueError, match="is not the one that the difference"):
        merge_checkpoints(*arguments[:4], work_dir=tmp_path / "work")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second file system to test with")
def test_shards_can_be_kept_on_another_file_system(sharded, tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        work = Path(elsewhere)
        assert work.stat().st_dev != tmp_path.stat().st_dev
        given = (sharded.base, sharded.diffs, sharded.weights)
        merge_checkpoints(*given, tmp_path / "merged", work_dir=work)
        merge_checkpoints(*given, tmp_path / "at once")
        assert folder_bytes(tmp_path / "merged") == folder_bytes(tmp_path / "at once")
        assert list(work.iterdir()) == []


def test_memory_does_not_grow_with_the_model(tmp_path):
    peaks = []
    for rows in ([65_536], [200_192, 30_976, 30_976]):  # 64 and 256 MiB; the largest tensor has 64 and 195
        folder = tmp_path / str(len(rows))
        synthetic = make_synthetic(folder, rows)
        peaks.append(peak_of_a_merge(synthetic, folder / "merged"))
        shutil.rmtree(folder)
    assert max(peaks) < LARGEST_PEAK
    assert peaks[1] - peaks[0] < GROWTH_BY_CHANCE


def peak_of_a_merge(synthetic, out):
    """Anonymous memory that a merge in a fresh process takes above what it has after its imports."""
    differences = [f"{synthetic.weights[name]}={folder}" for name, folder in synthetic.diffs.items()]
    command = [sys.executable, "-m", "tests.dem.measured_merge", synthetic.base, out, *differences]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "imported\n"
        imported = peak = memory_bytes(WITHOUT_FILES, process.pid)
        while process.poll() is None:
            peak = max(peak, memory_bytes(WITHOUT_FILES, process.pid) or 0)
            time.sleep(0.002)
    assert process.returncode == 0 and out.exists()
    return peak - imported

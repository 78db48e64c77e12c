"""What goes wrong in one of several processes ends all of them, and is told."""

import os

import pytest

from yunmin_assets.language_model.processes import run_in_processes, usable_cores

LOGGED = {"들립니까", "noise \ufffd of a library"}


@pytest.mark.parametrize(
    ("failure", "said", "ended"),
    [
        ("raises", "failed: ValueError: the rows are broken", "rank      : 1"),
        ("is killed", "rank      : 1", "Signal 9 (SIGKILL)"),
        (
            "cannot import",
            "failed: Traceback (most recent call last)",
            "ImportError: no module named something",
        ),
        ("exits", "failed: nothing to do", "exitcode  : 1"),
    ],
)
def test_a_rank_that_fails_while_another_waits_for_it_ends_all_with_its_reason(
    failure, said, ended, tmp_path, monkeypatch
):
    copy = tmp_path / "yunmin_assets" / "__init__.py"
    copy.parent.mkdir()
    copy.write_text("raise AssertionError('another copy of the package')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    lines, reports = [], []
    with pytest.raises(RuntimeError, match="one of 2 processes failed") as raised:
        run_in_processes(
            "tests.language_model.failing_rank",
            tmp_path / failure,
            2,
            log=lines.append,
            report=reports.append,
        )
    assert said in str(raised.value) and ended in str(raised.value)
    if failure in ("raises", "is killed"):
        assert set(lines) == LOGGED and reports == [{"step": 3}]


def test_threads_are_as_many_as_a_pod_may_use_and_never_more_than_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = usable_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what the CPU limit of a pod sets: configs/pods.yaml
    assert usable_cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores + 1))
    assert usable_cores() == cores

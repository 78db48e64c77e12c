"""What goes wrong in one of several processes ends all of them, and is told."""

import os

import pytest

from tests.conftest import REPOSITORY
from yunmin_assets.language_model.processes import run_in_processes


@pytest.mark.parametrize(
    ("failure", "message"), [("raises", "failed: ValueError: the rows are broken"), ("is killed", "SIGKILL")]
)
def test_a_rank_that_fails_ends_all_with_its_reason(failure, message, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY), prepend=os.pathsep)
    lines, reports = [], []
    with pytest.raises(RuntimeError, match="one of 2 processes failed") as raised:
        run_in_processes(
            "tests.language_model.failing_rank",
            tmp_path / failure,
            2,
            log=lines.append,
            report=reports.append,
        )
    assert message in str(raised.value)
    assert set(lines) <= {"들립니까", "noise of a library"} and reports in ([], [{"step": 3}])

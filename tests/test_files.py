"""Files and folders appear whole or not at all, and one process at a time works on a folder."""

import os
import subprocess
import sys

import pytest

from yunmin_assets.files import locked, new_folder, write_whole

HOLD = """
import sys
from pathlib import Path
from yunmin_assets.files import new_folder
with new_folder(Path(sys.argv[1])) as part:
    (part / "theirs").write_text("1")
    print("holding", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other_process(tmp_path):
    """Another process that fills the folder `out`; it goes on when it gets a line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "holding\n"
        yield process
        if process.poll() is None:
            process.communicate("\n")


def test_a_folder_that_another_process_fills_is_left_to_it_and_the_process_is_named(tmp_path, other_process):
    with (
        pytest.raises(
            RuntimeError, match=rf"process {other_process.pid} on .* holds .*out\.part\.lock: wait"
        ),
        new_folder(tmp_path / "out"),
    ):
        pass
    other_process.communicate("\n")
    assert other_process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_the_folder_of_a_killed_process_is_begun_anew(tmp_path, other_process):
    other_process.kill()
    other_process.wait()
    with new_folder(tmp_path / "out") as part:
        (part / "mine").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_folder_that_was_finished_meanwhile_is_not_overwritten(tmp_path, other_process):
    other_process.communicate("\n")
    with pytest.raises(FileExistsError, match="already holds something"), new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_threads_of_one_process_are_kept_apart_too(tmp_path):
    with locked(tmp_path / "lock"):
        with pytest.raises(RuntimeError, match=f"process {os.getpid()} on"), locked(tmp_path / "lock"):
            pass
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def test_a_text_file_is_replaced_as_a_whole(tmp_path):
    write_whole(tmp_path / "facts.json", "가")
    write_whole(tmp_path / "facts.json", "나")
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
    assert (tmp_path / "facts.json").read_text(encoding="utf-8") == "나"

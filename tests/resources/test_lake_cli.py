"""The lake is looked after from a shell."""

from pathlib import Path

import pytest

from resources.lake import POINTER, Lake
from resources.lake_cli import main


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(uri=str(tmp_path / "lake"))
    for domain in ("law", "tech"):
        with lake.stage("clean_corpus", domain) as staging:
            (staging.folder / "a.txt").write_text(domain)
            lake.commit(staging, asset="clean_corpus", domain=domain, fingerprint=domain)
    return lake


def test_list_names_every_current_snapshot(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--lake", lake.uri]) == 0
    printed = capsys.readouterr().out
    assert "clean_corpus[law]" in printed
    assert "clean_corpus[tech]" in printed


def test_verify_says_that_all_is_well_or_names_everything_that_is_not(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--lake", lake.uri]) == 0
    assert "every file is as it was published" in capsys.readouterr().out
    (Path(lake.uri) / "clean_corpus" / "law" / POINTER).write_text("{not json")
    (lake.current("clean_corpus", "tech").local / "a.txt").write_text("changed")
    assert main(["verify", "--lake", lake.uri]) == 1
    printed = capsys.readouterr().out
    assert "clean_corpus[law]:" in printed
    assert "a.txt: SHA-256 is" in printed


def test_collect_removes_what_garbage_lists(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(lake.uri) / "clean_corpus" / "law" / "20260101T000000000000-dead"
    folder.mkdir()
    assert main(["garbage", "--lake", lake.uri, "--older-than", "-1"]) == 0
    assert folder.name in capsys.readouterr().out
    assert main(["collect", "--lake", lake.uri, "--older-than", "-1"]) == 0
    assert not folder.exists()
    assert main(["verify", "--lake", lake.uri]) == 0

"""The lake is looked after from a shell."""

from pathlib import Path

import pytest

from resources.lake import Lake
from resources.lake_cli import main
from resources.pointer import POINTER
from resources.snapshot import LakeError


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


def test_rollback_makes_an_older_snapshot_current_and_goes_forward_again(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    of_law = ["clean_corpus", "--domain", "law", "--lake", lake.uri]
    with lake.stage("clean_corpus", "law") as staging:
        (staging.folder / "a.txt").write_text("worse")
        lake.commit(staging, asset="clean_corpus", domain="law", fingerprint="worse")
    old, new = lake.versions("clean_corpus", "law")
    assert main(["rollback", *of_law]) == 0
    assert (lake.current("clean_corpus", "law").local / "a.txt").read_text() == "law"
    capsys.readouterr()
    assert main(["versions", *of_law]) == 0
    newest, oldest = capsys.readouterr().out.splitlines()
    assert (newest[0], oldest[0]) == (" ", "*")
    assert (newest.endswith(new), oldest.endswith(old)) == (True, True)
    assert main(["rollback", *of_law, "--to", new]) == 0
    assert lake.current("clean_corpus", "law").manifest.version == new


def test_rollback_to_nowhere_is_refused_by_name(lake: Lake) -> None:
    of_law = ["clean_corpus", "--domain", "law", "--lake", lake.uri]
    with pytest.raises(
        LakeError, match=r"clean_corpus has no snapshot before .*: see `versions clean_corpus`"
    ):
        main(["rollback", *of_law])
    with pytest.raises(LakeError, match=r"manifest\.json is missing"):
        main(["rollback", *of_law, "--to", "nowhere"])

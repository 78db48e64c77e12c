"""A store that is overloaded, slow or loses answers costs time and nothing else."""

import uuid
from pathlib import Path

import pytest

from resources import pointer
from resources.lake import S3_CLIENT, Lake
from resources.pointer import POINTER
from resources.snapshot import PointerMovedError, Snapshot
from tests.s3_proxy import Proxy


@pytest.fixture
def lake(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake behind the proxy, by a client that waits a second for an answer."""
    monkeypatch.setitem(S3_CLIENT, "read_timeout", 1)
    uri = f"s3://lake/{uuid.uuid4().hex}"
    return Lake(uri=uri, endpoint_url=proxy.url, cache=str(tmp_path / "cache"))


def publish(lake: Lake, text: str = "text") -> Snapshot:
    with lake.stage("clean_corpus", "law") as staging:
        (staging.folder / "a.txt").write_text(text)
        return lake.commit(staging, asset="clean_corpus", domain="law", fingerprint=text)


def test_a_snapshot_is_published_and_read_whatever_fails_once(lake: Lake, proxy: Proxy) -> None:
    faults = {"a.txt": "refuse", "manifest.json": "hang", POINTER: "lose"}
    proxy.breaks_uploads = lambda name, before: faults[name] if before == 0 else None
    proxy.breaks = lambda name, before: "refuse" if name == "a.txt" and before == 0 else None
    published = publish(lake)
    found = lake.current("clean_corpus", "law")
    assert found.manifest == published.manifest
    assert (found.local / "a.txt").read_text() == "text"
    puts = [path.split("/")[-1] for method, path, _ in proxy.requests if method == "PUT"]
    assert sorted(puts) == sorted(2 * list(faults)), "each was sent twice"


def test_a_pointer_whose_answer_was_lost_has_moved_and_is_not_taken_for_somebody_elses(
    lake: Lake, proxy: Proxy
) -> None:
    publish(lake, "old")
    proxy.breaks_uploads = lambda name, before: "lose" if name == POINTER and before == 1 else None
    published = publish(lake, "new")
    assert [path.endswith(POINTER) for method, path, _ in proxy.requests if method == "PUT"].count(True) == 3
    assert lake.current("clean_corpus", "law").manifest == published.manifest


def test_somebody_who_published_between_two_attempts_is_noticed(lake: Lake, proxy: Proxy) -> None:
    theirs: list[Snapshot] = []

    def let_another_win(name: str, before: int) -> str | None:
        if name == POINTER and not theirs:
            direct = Lake(uri=lake.uri, endpoint_url=proxy.target, cache=lake.cache)
            theirs.append(publish(direct, "theirs"))
            return "refuse"
        return None

    proxy.breaks_uploads = let_another_win
    with pytest.raises(PointerMovedError, match=r"clean_corpus\[law\] was published by somebody else"):
        publish(lake, "ours")
    assert lake.current("clean_corpus", "law").manifest == theirs[0].manifest
    assert lake.versions("clean_corpus", "law") == [theirs[0].manifest.version]


@pytest.mark.parametrize("conflicts", [2, 99])
def test_a_conflict_with_a_write_under_way_is_no_defeat_and_asked_again(
    lake: Lake, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, conflicts: int
) -> None:
    monkeypatch.setattr(pointer, "CONFLICT_SECONDS", 0.01)
    old = publish(lake, "old")
    refused: list[int] = []

    def conflict(name: str, before: int) -> str | None:
        if name == POINTER and len(refused) < conflicts:
            refused.append(before)
            return "conflict"
        return None

    proxy.breaks_uploads = conflict
    if conflicts > pointer.CONFLICT_ATTEMPTS:
        with pytest.raises(OSError, match="another is under way"):  # which a retry of the step cures
            publish(lake, "new")
        assert lake.current("clean_corpus", "law").manifest == old.manifest
    else:
        assert publish(lake, "new").manifest == lake.current("clean_corpus", "law").manifest


def test_a_store_that_stays_overloaded_is_given_up(
    lake: Lake, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(S3_CLIENT, "retries", {"mode": "standard", "total_max_attempts": 2})
    proxy.status = 503
    with pytest.raises(OSError, match=r"503|SlowDown|Service Unavailable|Remote I/O error"):
        publish(lake)

"""A domain is reported exactly when its settled content differs from what was reported last, in bounded looks."""

import itertools
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from resources.lake import open_uri
from yunmin_assets.automation import raw_changes
from yunmin_assets.automation.raw_changes import SETTLE_SECONDS, Changes, Seen, find_changes
from yunmin_assets.corpus.listing import list_domains

AT_REST = SETTLE_SECONDS + 60
NAMES = [
    "law.jsonl",
    "law/a.jsonl",
    "law/b/c.jsonl",
    "law-x/a.jsonl",
    "tech/a.jsonl",
    "tech/b.jsonl",
    "web.parquet",
]
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "look"]), st.sampled_from(NAMES), st.binary(max_size=1)),
    max_size=30,
)
NUMBERS = itertools.count()


class Store:
    """A prefix on an S3 server, beside a plain dictionary of what should be there."""

    def __init__(self, endpoint: str) -> None:
        self.root = open_uri(f"s3://lake/changes/{next(NUMBERS)}", endpoint)
        self.objects: dict[str, bytes] = {}
        self.seen = Seen()

    def put(self, name: str, content: bytes) -> None:
        self.objects[name] = content
        self.root.fs.pipe_file(f"{self.root.path}/{name}", content)

    def delete(self, name: str) -> None:
        if self.objects.pop(name, None) is not None:
            self.root.fs.rm_file(f"{self.root.path}/{name}")

    def look(self) -> Changes:
        """One look, remembered through JSON as a cursor is."""
        changes = find_changes(self.root, self.seen, now=time.time() + AT_REST)
        self.seen = Seen.model_validate_json(changes.seen.model_dump_json())
        return changes

    def look_to_the_end(self) -> list[str]:
        """Looks up to the end of the pass; the domains reported."""
        reported = []
        while True:
            changes = self.look()
            reported += changes.changed
            if changes.is_complete:
                return reported

    def contents(self) -> dict[str, list[tuple[str, bytes]]]:
        """The oracle: domain → its objects."""
        found: dict[str, list[tuple[str, bytes]]] = {}
        for name, content in sorted(self.objects.items()):
            found.setdefault(name.split("/")[0].split(".")[0], []).append((name, content))
        return found


@pytest.fixture(params=[1, 2, 50_000], ids="{} objects a look".format)
def look_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(raw_changes, "MAX_OBJECTS_PER_LOOK", request.param)
    return int(request.param)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_domain_is_reported_exactly_when_its_content_differs_from_the_last_report(
    s3_endpoint: str, look_size: int, steps: list[tuple[str, str, bytes]]
) -> None:
    store = Store(s3_endpoint)
    reported: dict[str, list[tuple[str, bytes]]] = {}
    for what, name, content in [*steps, ("look", "", b"")]:
        if what == "put":
            store.put(name, content)
        elif what == "delete":
            store.delete(name)
        else:
            now = store.contents()
            assert sorted(store.look_to_the_end()) == sorted(
                name for name in now if now[name] != reported.get(name)
            )
            reported = now


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_nothing_is_lost_when_objects_change_between_the_looks_of_one_pass(
    s3_endpoint: str, look_size: int, steps: list[tuple[str, str, bytes]]
) -> None:
    store = Store(s3_endpoint)
    for what, name, content in steps:
        if what == "put":
            store.put(name, content)
        elif what == "delete":
            store.delete(name)
        else:
            store.look()
    store.look_to_the_end()  # the pass that was under way
    store.look_to_the_end()
    assert store.seen.digests == {name: listing.digest for name, listing in list_domains(store.root).items()}
    assert store.look_to_the_end() == []


def test_a_look_lists_no_more_than_its_limit_and_the_next_goes_on_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_changes, "MAX_OBJECTS_PER_LOOK", 10)
    for number in range(25):
        (tmp_path / f"law{number // 12}").mkdir(exist_ok=True)
        (tmp_path / f"law{number // 12}" / f"{number:02}.jsonl").write_text("x")
    seen, found = Seen(), []
    for _ in range(3):
        changes = find_changes(UPath(tmp_path), seen, now=time.time() + AT_REST)
        seen = changes.seen
        found.append((changes.objects, list(changes.changed), changes.is_complete))
    assert found == [(10, [], False), (10, ["law0"], False), (5, ["law1", "law2"], True)]


def test_a_slow_store_ends_a_look_after_a_while_and_still_gets_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_changes, "MAX_SECONDS_PER_LOOK", 0.0)
    monkeypatch.setattr(raw_changes, "OBJECTS_BETWEEN_GLANCES", 2)
    for number in range(5):
        (tmp_path / f"law{number}.jsonl").write_text("x")
    seen, found = Seen(), []
    for _ in range(3):
        changes = find_changes(UPath(tmp_path), seen, now=time.time() + AT_REST)
        seen = changes.seen
        found.append((changes.objects, list(changes.changed)))
    assert found == [(2, ["law0"]), (2, ["law1", "law2"]), (1, ["law3", "law4"])]


def test_a_look_reports_no_more_domains_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_changes, "MAX_CHANGED_PER_LOOK", 2)
    for name in "abcde":
        (tmp_path / f"{name}.jsonl").write_text("x")
    seen, found = Seen(), []
    for _ in range(3):
        changes = find_changes(UPath(tmp_path), seen, now=time.time() + AT_REST)
        seen = changes.seen
        found.append(list(changes.changed))
    assert found == [["a", "b"], ["c", "d"], ["e"]]
    assert changes.is_complete


def test_more_domains_than_can_be_watched_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_changes, "MAX_DOMAINS", 2)
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text("x")
    changes = find_changes(UPath(tmp_path), Seen(), now=time.time() + AT_REST)
    assert list(changes.changed) == ["a", "b"]
    assert changes.refused == {"c": "c is one domain too many: 2 are watched, use folders"}


def test_what_is_remembered_does_not_grow_with_the_number_of_objects(tmp_path: Path) -> None:
    sizes = []
    for number in range(200):
        (tmp_path / "law").mkdir(exist_ok=True)
        (tmp_path / "law" / f"{number:03}.jsonl").write_text("x")
        if number in (0, 199):
            changes = find_changes(UPath(tmp_path), Seen(), now=time.time() + AT_REST)
            sizes.append(len(changes.seen.model_dump_json()))
    assert sizes[0] == sizes[1] < 300


def test_one_object_still_being_written_holds_back_its_whole_domain_and_no_other(tmp_path: Path) -> None:
    for name in ("law/a.jsonl", "law/b.jsonl", "tech.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    now = (tmp_path / "law" / "b.jsonl").stat().st_mtime + SETTLE_SECONDS / 2
    for name in ("law/a.jsonl", "tech.jsonl"):
        os.utime(tmp_path / name, (now - AT_REST, now - AT_REST))
    changes = find_changes(UPath(tmp_path), Seen(), now=now)
    assert (list(changes.changed), changes.unsettled) == (["tech"], ["law"])
    assert list(find_changes(UPath(tmp_path), changes.seen, now=now + SETTLE_SECONDS).changed) == ["law"]


def test_an_object_from_the_future_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "law.jsonl").write_text("x")
    assert list(find_changes(UPath(tmp_path), Seen(), now=time.time() - AT_REST).changed) == ["law"]

"""A domain is reported exactly when its settled content differs from what was reported last, in bounded looks."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from resources.lake import open_uri
from yunmin_assets.automation import raw_changes
from yunmin_assets.automation.raw_changes import Changes, Seen, find_changes
from yunmin_assets.corpus.listing import list_domains

SETTLE_SECONDS = 10.0
SOME_TIME = 1_800_000_000.0
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


class Watch:
    """Looks at a raw root, with a memory and a clock of its own."""

    def __init__(self, root: UPath) -> None:
        self.root, self.seen, self.now = root, Seen(), SOME_TIME

    def look(self, *, seconds_later: float = SETTLE_SECONDS) -> Changes:
        """One look, remembered through JSON as a cursor is."""
        self.now += seconds_later
        changes = find_changes(self.root, self.seen, now=self.now, settle_seconds=SETTLE_SECONDS)
        self.seen = Seen.model_validate_json(changes.seen.model_dump_json())
        return changes

    def look_to_the_end(self, passes: int = 1) -> list[str]:
        """Looks up to the end of so many passes; the domains reported."""
        reported = list[str]()
        while passes:
            changes = self.look()
            reported += changes.changed
            passes -= changes.is_complete
        return reported


class Store(Watch):
    """A prefix on an S3 server, beside a plain dictionary of what should be there."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(open_uri(f"s3://lake/changes/{next(NUMBERS)}", endpoint))
        self.objects: dict[str, bytes] = {}

    def put(self, name: str, content: bytes) -> None:
        self.objects[name] = content
        self.root.fs.pipe_file(f"{self.root.path}/{name}", content)

    def delete(self, name: str) -> None:
        if self.objects.pop(name, None) is not None:
            self.root.fs.rm_file(f"{self.root.path}/{name}")

    def contents(self) -> dict[str, list[tuple[str, bytes]]]:
        """The oracle: domain → its objects."""
        found: dict[str, list[tuple[str, bytes]]] = {}
        for name, content in sorted(self.objects.items()):
            found.setdefault(name.split("/")[0].split(".")[0], []).append((name, content))
        return found


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")


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
            assert sorted(store.look_to_the_end(passes=2)) == sorted(
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
    store.look_to_the_end(passes=2)
    assert store.seen.digests == {name: listing.digest for name, listing in list_domains(store.root).items()}
    assert store.look_to_the_end() == []


def test_a_look_lists_no_more_than_its_limit_and_the_next_goes_on_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_changes, "MAX_OBJECTS_PER_LOOK", 10)
    write(tmp_path, *(f"law{number // 12}/{number:02}.jsonl" for number in range(25)))
    watch = Watch(UPath(tmp_path))
    assert watch.look_to_the_end() == []
    looks = [watch.look() for _ in range(3)]
    assert [(look.objects, list(look.changed), look.is_complete) for look in looks] == [
        (10, [], False),
        (10, ["law0"], False),
        (5, ["law1", "law2"], True),
    ]


def test_a_slow_store_ends_a_look_after_a_while_and_still_gets_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_changes, "MAX_SECONDS_PER_LOOK", 0.0)
    monkeypatch.setattr(raw_changes, "OBJECTS_BETWEEN_GLANCES", 2)
    write(tmp_path, *(f"law{number}.jsonl" for number in range(5)))
    watch = Watch(UPath(tmp_path))
    watch.look_to_the_end()
    looks = [watch.look() for _ in range(3)]
    assert [(look.objects, list(look.changed)) for look in looks] == [
        (2, ["law0"]),
        (2, ["law1", "law2"]),
        (1, ["law3", "law4"]),
    ]


def test_a_look_reports_no_more_domains_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_changes, "MAX_CHANGED_PER_LOOK", 2)
    write(tmp_path, *(f"{name}.jsonl" for name in "abcde"))
    watch = Watch(UPath(tmp_path))
    watch.look_to_the_end()
    looks = [watch.look() for _ in range(3)]
    assert [list(look.changed) for look in looks] == [["a", "b"], ["c", "d"], ["e"]]
    assert looks[-1].is_complete


def test_more_domains_than_can_be_watched_are_refused_by_name_and_displace_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_changes, "MAX_DOMAINS", 2)
    write(tmp_path, "b.jsonl", "c.jsonl")
    watch = Watch(UPath(tmp_path))
    assert watch.look_to_the_end(passes=2) == ["b", "c"]
    write(tmp_path, "a.jsonl", "d.jsonl")
    changes = watch.look()
    assert changes.refused == {
        name: f"{name} is one domain too many: 2 are watched, use folders" for name in "ad"
    }
    assert (changes.settled, changes.gone) == (["b", "c"], [])


def test_what_is_remembered_does_not_grow_with_the_number_of_objects(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 200):
        write(tmp_path, *(f"law/{number:03}.jsonl" for number in range(count)))
        watch = Watch(UPath(tmp_path))
        watch.look()
        sizes.append(len(watch.seen.model_dump_json()))
    assert sizes[0] == sizes[1] < 400


def test_one_object_still_being_written_holds_back_its_whole_domain_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, "law/a.jsonl", "law/b.jsonl", "tech.jsonl")
    watch = Watch(UPath(tmp_path))
    assert watch.look().unsettled == ["law", "tech"]
    (tmp_path / "law" / "b.jsonl").write_text("xx")
    changes = watch.look()
    assert (list(changes.changed), changes.unsettled) == (["tech"], ["law"])
    assert list(watch.look().changed) == ["law"]


def test_objects_that_trickle_in_are_one_delivery_whatever_their_own_times_say(tmp_path: Path) -> None:
    watch = Watch(UPath(tmp_path))
    for number in range(5):
        write(tmp_path, f"law/{number}.jsonl")
        os.utime(tmp_path / "law" / f"{number}.jsonl", (0, 0))  # as old as a large upload that began long ago
        assert (dict(watch.look().changed), watch.look(seconds_later=SETTLE_SECONDS / 2).unsettled) == (
            {},
            ["law"],
        )
    assert list(watch.look(seconds_later=SETTLE_SECONDS / 2).changed) == ["law"]
    assert watch.look_to_the_end(passes=3) == []


def test_a_change_that_is_taken_back_before_it_rests_is_none(tmp_path: Path) -> None:
    write(tmp_path, "law/a.jsonl")
    watch = Watch(UPath(tmp_path))
    assert watch.look_to_the_end(passes=2) == ["law"]
    write(tmp_path, "law/b.jsonl")
    assert watch.look().unsettled == ["law"]
    (tmp_path / "law" / "b.jsonl").unlink()
    assert watch.look_to_the_end(passes=3) == []

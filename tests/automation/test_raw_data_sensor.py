"""A dropped file starts its domain's chain once; nothing else does."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, SensorResult, build_sensor_context, materialize

from resources.lake import Lake
from resources.settings import Settings
from yunmin_assets.automation.jobs import GLOBAL_MODELS, INGEST
from yunmin_assets.automation.sensors import raw_data_sensor
from yunmin_assets.corpus.assets import raw_corpus

SETTLE_SECONDS = 0.001


class Watch:
    """The sensor with its memory, as the daemon runs it tick by tick."""

    def __init__(self, home: Path, instance: DagsterInstance) -> None:
        self.raw, self.instance, self.cursor = home / "raw", instance, ""
        self.lake = Lake(uri=str(home / "lake"))
        config = home / "pipeline.yaml"
        config.write_text(f"raw: {self.raw}\nlake: {home / 'lake'}\nraw_settle_seconds: {SETTLE_SECONDS}\n")
        self.settings = Settings(path=str(config))

    def tick(self) -> SensorResult:
        time.sleep(2 * SETTLE_SECONDS)
        context = build_sensor_context(instance=self.instance, cursor=self.cursor or None)
        result = raw_data_sensor(context, lake=self.lake, settings=self.settings)
        assert isinstance(result, SensorResult)
        self.cursor = result.cursor or self.cursor
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions("domain", list(request.partition_keys))
        return result

    def materialize(self, domain: str) -> None:
        """What the requested run begins with."""
        self.instance.add_dynamic_partitions("domain", [domain])
        resources = {"lake": self.lake, "settings": self.settings}
        assert materialize(
            [raw_corpus], resources=resources, partition_key=domain, instance=self.instance
        ).success

    def settle(self) -> SensorResult:
        """A tick that sees what changed, and one that finds it at rest."""
        assert not self.tick().run_requests
        return self.tick()

    def requested(self) -> list[str | None]:
        return [request.partition_key for request in self.settle().run_requests or []]

    def publish(self, *assets: str) -> None:
        for name in assets:
            with self.lake.stage(name) as staging:
                (staging.folder / "model").write_text("x")
                self.lake.commit(staging, asset=name, domain=None, fingerprint="")

    def drop(self, name: str, text: str, *, age: float = 60) -> None:
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (time.time() - age, time.time() - age))


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)
    with DagsterInstance.ephemeral() as instance:
        yield Watch(tmp_path, instance)


def test_a_file_in_a_new_domain_adds_the_partition_and_requests_its_chain_once(watch: Watch) -> None:
    watch.drop("law.jsonl", '{"text": "하나"}')
    assert watch.requested() == ["law"]
    assert watch.instance.get_dynamic_partitions("domain") == ["law"]
    assert watch.requested() == []


def test_a_new_file_in_a_known_domain_requests_only_that_domain(watch: Watch) -> None:
    watch.drop("law.jsonl", "1")
    watch.drop("tech/a.jsonl", "1")
    assert watch.requested() == ["law", "tech"]
    watch.drop("tech/b.jsonl", "2")
    assert watch.requested() == ["tech"]


def test_an_unchanged_file_dropped_again_after_its_run_requests_nothing(watch: Watch) -> None:
    watch.drop("law.jsonl", '{"text": "same"}')
    assert watch.requested() == ["law"]
    watch.materialize("law")
    watch.drop("law.jsonl", '{"text": "same"}', age=30)
    result = watch.settle()
    assert not result.run_requests
    assert "nothing new in 1 domains" in str(result.skip_reason)
    assert "already materialized: law" in str(result.skip_reason)


def test_changed_content_and_a_return_to_the_old_content_are_both_new_requests(watch: Watch) -> None:
    watch.drop("law.jsonl", "one")
    watch.settle()
    watch.drop("law.jsonl", "two", age=50)
    assert watch.requested() == ["law"]
    watch.drop("law.jsonl", "one", age=40)
    assert watch.requested() == ["law"]


def test_a_file_that_is_still_being_written_waits_for_the_next_tick(watch: Watch) -> None:
    for text in ("half", "half and half"):
        watch.drop("law.jsonl", text)
        result = watch.tick()
        assert not result.run_requests
        assert "not yet at rest: law" in str(result.skip_reason)
    [request] = watch.tick().run_requests or []
    assert request.partition_key == "law"


def test_content_that_was_materialized_by_hand_is_not_requested_again(watch: Watch) -> None:
    watch.drop("law.jsonl", '{"text": "one"}')
    watch.materialize("law")
    assert watch.requested() == []
    watch.drop("law.jsonl", '{"text": "two"}', age=50)
    assert watch.requested() == ["law"]


def test_a_domain_whose_objects_are_all_gone_is_told_once_and_requested_when_it_comes_back(
    watch: Watch,
) -> None:
    watch.drop("law.jsonl", "one")
    watch.settle()
    (watch.raw / "law.jsonl").unlink()
    result = watch.tick()
    assert not result.run_requests
    assert "no object left of: law" in str(result.skip_reason)
    assert "law" not in str(watch.tick().skip_reason)
    watch.drop("law.jsonl", "one")
    assert watch.requested() == ["law"]


def test_a_tick_that_was_killed_before_its_cursor_was_stored_is_done_again_with_the_same_run_keys(
    watch: Watch,
) -> None:
    watch.drop("law.jsonl", "one")
    assert not watch.tick().run_requests
    before = watch.cursor
    killed = watch.tick()
    watch.cursor = before
    again = watch.tick()
    assert [request.run_key for request in again.run_requests or []] == [
        request.run_key for request in killed.run_requests or []
    ]
    assert again.run_requests


def test_many_invalid_names_are_counted_and_only_some_are_shown(watch: Watch) -> None:
    for number in range(40):
        watch.drop(f"나쁜 {number:02}.jsonl", "x")
    reason = str(watch.tick().skip_reason)
    assert "'나쁜 00' cannot be a domain" in reason
    assert "and 35 more" in reason
    assert len(reason) < 1000


def test_before_the_models_exist_only_what_needs_none_is_requested(watch: Watch) -> None:
    watch.drop("law.jsonl", "one")
    watch.drop("tech.jsonl", "one")
    requests = watch.settle().run_requests or []
    assert [request.asset_selection for request in requests] == [[AssetKey(name) for name in INGEST]] * 2
    watch.publish(*GLOBAL_MODELS)
    watch.drop("law.jsonl", "two", age=50)
    requests = watch.tick().run_requests or []
    assert [(request.partition_key, request.asset_selection) for request in requests] == [("tech", None)]
    [request] = watch.tick().run_requests or []
    assert (request.partition_key, request.asset_selection) == ("law", None)


def test_the_first_tick_with_models_requests_the_whole_chain_of_what_was_only_ingested(watch: Watch) -> None:
    for domain in ("gone", "law", "tech"):
        watch.drop(f"{domain}.jsonl", '{"text": "one"}')
    watch.materialize("tech")
    assert watch.requested() == ["gone", "law"]
    watch.publish(*GLOBAL_MODELS[1:])
    (watch.raw / "gone.jsonl").unlink()
    assert watch.requested() == []
    watch.publish(GLOBAL_MODELS[0])
    requests = watch.tick().run_requests or []
    assert [(request.partition_key, request.asset_selection) for request in requests] == [
        ("law", None),
        ("tech", None),
    ]
    assert watch.requested() == []


def test_a_broken_manifest_stops_no_other_domain_and_its_own_is_requested(
    watch: Watch, capfd: pytest.CaptureFixture[str]
) -> None:
    for domain in ("law", "tech"):
        watch.drop(f"{domain}.jsonl", '{"text": "one"}')
        watch.materialize(domain)
    [manifest] = Path(watch.lake.uri).glob("raw_corpus/law/*/manifest.json")
    manifest.unlink()
    assert watch.requested() == ["law"]
    assert "manifest.json is missing: materialize raw_corpus again" in capfd.readouterr().err


@pytest.mark.parametrize("cursor", ["{half", '["a list"]', '{"number": "no number"}'])
def test_a_cursor_that_cannot_be_read_is_begun_anew(
    watch: Watch, cursor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    watch.cursor = cursor
    watch.drop("law.jsonl", "one")
    assert watch.requested() == ["law"]
    assert "the cursor cannot be read and is begun anew" in capfd.readouterr().err


def test_a_missing_raw_folder_and_an_unsafe_domain_name_are_told_in_the_skip_reason(watch: Watch) -> None:
    assert "does not exist" in str(watch.tick().skip_reason)
    watch.drop("나쁜 이름.jsonl", "x")
    result = watch.tick()
    assert not result.run_requests
    assert "cannot be a domain" in str(result.skip_reason)


def test_objects_dropped_on_s3_are_seen_as_files_are_and_their_chain_reads_them(
    watch: Watch, s3_endpoint: str, tmp_path: Path
) -> None:
    config = tmp_path / "s3.yaml"
    config.write_text(
        f"raw: s3://lake/dropped\nlake: {watch.lake.uri}\nendpoint_url: {s3_endpoint}\n"
        f"raw_settle_seconds: {SETTLE_SECONDS}\n"
    )
    watch.settings = Settings(path=str(config))
    root = watch.settings.raw_root()
    assert "nothing new in 0 domains, 0 objects listed" in str(watch.tick().skip_reason)
    for name in ("law/a.jsonl", "law/b.jsonl", "tech.jsonl"):
        root.fs.pipe_file(f"{root.path}/{name}", b'{"text": "one"}')
    assert watch.requested() == ["law", "tech"]
    assert sorted(watch.instance.get_dynamic_partitions("domain")) == ["law", "tech"]
    root.fs.pipe_file(f"{root.path}/law/a.jsonl", b'{"text": "two"}')
    root.fs.rm_file(f"{root.path}/tech.jsonl")
    watch.materialize("law")
    assert "no object left of: tech" in str(watch.tick().skip_reason)
    assert "already materialized: law" in str(watch.tick().skip_reason)
    root.fs.pipe_file(f"{root.path}/law/a.jsonl", b'{"text": "one"}')
    root.fs.pipe_file(f"{root.path}/tech.jsonl", b'{"text": "one"}')
    assert watch.requested() == ["law", "tech"]

"""A dropped file starts its domain's chain once; nothing else does."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, SensorResult, build_sensor_context

from resources.lake import Lake
from resources.settings import Settings
from yunmin_assets.automation.jobs import GLOBAL_MODELS, INGEST
from yunmin_assets.automation.sensors import raw_folder_sensor


class Watch:
    """The sensor with its memory, as the daemon runs it tick by tick."""

    def __init__(self, home: Path, instance: DagsterInstance) -> None:
        self.raw, self.instance, self.cursor = home / "raw", instance, ""
        self.lake = Lake(uri=str(home / "lake"))
        config = home / "pipeline.yaml"
        config.write_text(f"raw: {self.raw}\nlake: {home / 'lake'}\n")
        self.settings = Settings(path=str(config))

    def tick(self) -> SensorResult:
        context = build_sensor_context(instance=self.instance, cursor=self.cursor or None)
        result = raw_folder_sensor(context, lake=self.lake, settings=self.settings)
        assert isinstance(result, SensorResult)
        self.cursor = result.cursor or self.cursor
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions("domain", list(request.partition_keys))
        return result

    def requested(self) -> list[str | None]:
        return [request.partition_key for request in self.tick().run_requests or []]

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


def test_an_unchanged_file_dropped_again_requests_nothing(watch: Watch) -> None:
    watch.drop("law.jsonl", "same")
    watch.tick()
    watch.drop("law.jsonl", "same", age=30)
    result = watch.tick()
    assert not result.run_requests
    assert "nothing new in 1 domains" in str(result.skip_reason)


def test_changed_content_and_a_return_to_the_old_content_are_both_new_requests(watch: Watch) -> None:
    watch.drop("law.jsonl", "one")
    watch.tick()
    watch.drop("law.jsonl", "two", age=50)
    assert watch.requested() == ["law"]
    watch.drop("law.jsonl", "one", age=40)
    assert watch.requested() == ["law"]


def test_a_file_that_is_still_being_written_waits_for_the_next_tick(watch: Watch) -> None:
    watch.drop("law.jsonl", "half", age=0)
    result = watch.tick()
    assert not result.run_requests
    assert "still being written: law" in str(result.skip_reason)
    watch.drop("law.jsonl", "half and half", age=10)
    assert watch.requested() == ["law"]


def test_content_that_was_materialized_by_hand_is_not_requested_again(watch: Watch) -> None:
    from yunmin_assets.automation.raw_changes import Seen, find_changes

    watch.drop("law.jsonl", "one")
    content = find_changes(watch.settings.raw_root(), Seen(), now=time.time()).changed["law"]
    with watch.lake.stage("raw_corpus", "law") as staging:
        (staging.folder / "objects.json").write_text("[]")
        watch.lake.commit(
            staging, asset="raw_corpus", domain="law", fingerprint="", inputs={"raw objects": content}
        )
    assert watch.requested() == []


def test_before_the_models_exist_only_what_needs_none_is_requested(watch: Watch) -> None:
    watch.drop("law.jsonl", "one")
    (request,) = watch.tick().run_requests or []
    assert request.asset_selection == [AssetKey(name) for name in INGEST]
    for name in GLOBAL_MODELS:
        with watch.lake.stage(name) as staging:
            (staging.folder / "model").write_text("x")
            watch.lake.commit(staging, asset=name, domain=None, fingerprint="")
    watch.drop("law.jsonl", "two", age=50)
    (request,) = watch.tick().run_requests or []
    assert request.asset_selection is None


def test_a_missing_raw_folder_and_an_unsafe_domain_name_are_told_in_the_skip_reason(watch: Watch) -> None:
    assert "does not exist" in str(watch.tick().skip_reason)
    watch.drop("나쁜 이름.jsonl", "x")
    result = watch.tick()
    assert not result.run_requests
    assert "cannot be a domain" in str(result.skip_reason)

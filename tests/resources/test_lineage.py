"""A report is made of snapshots that belong together; what the base was trained on decides what it never saw."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resources.lake import Lake
from resources.lineage import GRAPH, Lineage, read_lineage, splits_behind_base, trained_on
from resources.snapshot import LakeError, Snapshot
from yunmin_assets.evaluation.assets import _base_never_saw_test
from yunmin_assets.snapshot_files import TRAIN_FILE, WEIGHTS_FILE, decisions_file


class Corpora:
    """A lake with the training documents of some domains, and a base trained on given ones."""

    def __init__(self, home: Path) -> None:
        self.lake = Lake(uri=str(home))

    def split(self, domain: str, text: str) -> Snapshot:
        with self.lake.stage("deduped_corpus", domain) as staging:
            pq.write_table(pa.table({"text": [text]}), staging.folder / TRAIN_FILE)
            return self.lake.commit(staging, asset="deduped_corpus", domain=domain, fingerprint=text)

    def base(self, trained_on: Mapping[str, Snapshot]) -> Snapshot:
        inputs = {
            f"deduped_corpus[{name}]": item.file(TRAIN_FILE).sha256 for name, item in trained_on.items()
        }
        with self.lake.stage("base_model") as staging:
            (staging.folder / "model").write_text("weights")
            return self.lake.commit(
                staging, asset="base_model", domain=None, fingerprint="f", inputs={"tokenizer": "1", **inputs}
            )


@pytest.fixture
def corpora(tmp_path: Path) -> Corpora:
    return Corpora(tmp_path / "lake")


def lineage(base: Snapshot, merged: Mapping[str, Snapshot]) -> Lineage:
    return Lineage({"base_model": base}, {"deduped_corpus": merged, "diff_vector": merged}, None, None)


def test_a_base_trained_on_the_current_splits_never_saw_the_test_documents(corpora: Corpora) -> None:
    splits = {domain: corpora.split(domain, domain) for domain in ("law", "news")}
    found = _base_never_saw_test(lineage(corpora.base(splits), splits))
    assert (found.passed, found.description) == (True, "no domain was split anew")


def test_a_domain_that_was_split_anew_is_named_with_the_cure(corpora: Corpora) -> None:
    base = corpora.base({domain: corpora.split(domain, domain) for domain in ("law", "news")})
    now = {"law": corpora.split("law", "more text"), "news": corpora.lake.current("deduped_corpus", "news")}
    found = _base_never_saw_test(lineage(base, now))
    assert (found.passed, found.description) == (
        False,
        "split anew since, materialize base_model again: law",
    )


def test_a_domain_that_came_after_the_base_is_no_danger(corpora: Corpora) -> None:
    splits = {domain: corpora.split(domain, domain) for domain in ("law", "news")}
    assert _base_never_saw_test(lineage(corpora.base({"law": splits["law"]}), splits)).passed


def test_of_a_base_from_outside_nobody_knows_what_it_saw(corpora: Corpora) -> None:
    found = _base_never_saw_test(lineage(corpora.base({}), {"law": corpora.split("law", "law")}))
    assert not found.passed
    assert "not known here" in found.description


def test_text_counts_as_trained_on_when_base_or_adapters_have_seen_it(corpora: Corpora) -> None:
    splits = {domain: corpora.split(domain, domain) for domain in ("law", "news", "web")}
    behind = lineage(
        corpora.base({"law": splits["law"], "web": splits["web"]}),
        {"law": splits["law"], "news": splits["news"]},
    )
    assert list(splits_behind_base(behind)) == ["law", "web"]
    assert list(trained_on(corpora.lake, behind)) == ["law", "news", "web"]


def test_a_domain_that_was_removed_since_the_base_saw_it_is_left_out(corpora: Corpora) -> None:
    law = corpora.split("law", "law")
    base = corpora.base({"law": law})
    behind = lineage(base, {"news": corpora.split("news", "news")})
    pointer = corpora.lake.current("deduped_corpus", "law").local.parent / "current.json"
    pointer.unlink()
    assert list(trained_on(corpora.lake, behind)) == ["news"]


class MergedModel:
    """A lake with one small snapshot of every asset behind a merged model of one domain, each made from the others."""

    def __init__(self, home: Path) -> None:
        self.lake = Lake(uri=str(home))
        for asset in GRAPH:
            self.publish(asset)

    def publish(self, asset: str, text: str = "") -> None:
        """A snapshot made from what is current."""
        domain = "law" if GRAPH[asset] else None
        name = {
            "duplicate_clusters": decisions_file("law"),
            "deduped_corpus": TRAIN_FILE,
            "domain_weights": WEIGHTS_FILE,
        }.get(asset, "file")
        with self.lake.stage(asset, domain) as staging:
            path = staging.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if asset == "domain_weights":
                path.write_text(json.dumps({"weights": {"law": 1.0}, "note": text}))
            elif name.endswith(".parquet"):
                pq.write_table(pa.table({"text": [asset + text]}), path)
            else:
                path.write_text(asset + text)
            self.lake.commit(
                staging, asset=asset, domain=domain, fingerprint=asset + text, inputs=self.inputs(asset)
            )

    def inputs(self, asset: str) -> dict[str, str]:
        """What the manifest of an asset says it was made from."""
        match asset:
            case "clean_corpus":
                return {"raw_corpus": self.hash("raw_corpus")}
            case "deduped_corpus":
                clusters = self.lake.current("duplicate_clusters").file(decisions_file("law")).sha256
                return {"clean_corpus": self.hash("clean_corpus"), "duplicate_clusters[law]": clusters}
            case "pruned_corpus":
                return {
                    "deduped_corpus train": self.lake.current("deduped_corpus", "law").file(TRAIN_FILE).sha256
                }
            case "parquet_shards":
                return {"pruned_corpus": self.hash("pruned_corpus")}
            case "lora_adapter":
                return {"parquet_shards": self.hash("parquet_shards")}
            case "diff_vector":
                return {"lora_adapter": self.hash("lora_adapter")}
            case "merged_model":
                over_all = {name: self.hash(name) for name in ("base_model", "domain_weights")}
                return over_all | {"diff_vector[law]": self.hash("diff_vector")}
        return {}

    def hash(self, asset: str) -> str:
        return self.lake.current(asset, "law" if GRAPH[asset] else None).content_hash


@pytest.fixture
def merged_model(tmp_path: Path) -> MergedModel:
    return MergedModel(tmp_path / "lake")


def test_snapshots_that_were_made_from_one_another_are_read(merged_model: MergedModel) -> None:
    assert read_lineage(merged_model.lake).domains == ["law"]


def test_text_delivered_since_is_no_part_of_the_report(merged_model: MergedModel) -> None:
    assets = ("raw_corpus", "clean_corpus")
    before = [merged_model.hash(asset) for asset in assets]
    for asset in assets:
        merged_model.publish(asset, "of today")
    found = read_lineage(merged_model.lake).by_domain
    assert [found[asset]["law"].content_hash for asset in assets] == before


def test_text_behind_the_model_that_is_no_longer_in_the_lake_is_an_error(merged_model: MergedModel) -> None:
    shutil.rmtree(merged_model.lake.current("clean_corpus", "law").local)
    merged_model.publish("clean_corpus", "of today")
    with pytest.raises(LakeError, match=r"materialize deduped_corpus\[law\] again"):
        read_lineage(merged_model.lake)


@pytest.mark.parametrize(
    ("published_since", "out_of_date"),
    [
        ("duplicate_clusters", "deduped_corpus[law]"),
        ("deduped_corpus", "pruned_corpus[law]"),
        ("pruned_corpus", "parquet_shards[law]"),
        ("parquet_shards", "lora_adapter[law]"),
        ("lora_adapter", "diff_vector[law]"),
        ("diff_vector", "merged_model"),
        ("domain_weights", "merged_model"),
        ("base_model", "merged_model"),
    ],
)
def test_a_snapshot_made_from_an_older_one_is_refused_by_name(
    merged_model: MergedModel, published_since: str, out_of_date: str
) -> None:
    merged_model.publish(published_since, "of today")
    with pytest.raises(LakeError) as raised:
        read_lineage(merged_model.lake)
    assert f"materialize {out_of_date} again" in str(raised.value.description)

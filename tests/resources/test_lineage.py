"""What the base was trained on decides which test documents it never saw."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resources.lake import Lake
from resources.lineage import Lineage, splits_behind_base, trained_on
from resources.snapshot import Snapshot
from yunmin_assets.evaluation.assets import _base_never_saw_test
from yunmin_assets.snapshot_files import TRAIN_FILE


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

"""Splits follow clusters, and every document is kept, or removed with its survivor named."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tests.dedup.lake_files import Corpora
from yunmin_assets.dedup.boilerplate.config import BoilerplateConfig
from yunmin_assets.dedup.boilerplate.repeated_paragraphs import find_boilerplate
from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.removal import apply_decisions, survivors
from yunmin_assets.dedup.splits import SplitConfig, split_of
from yunmin_assets.documents import SPLITS, document_files

CLUSTERS = [f"law/{number}" for number in range(20_000)]


def test_splits_have_the_configured_shares_and_do_not_depend_on_other_documents() -> None:
    config = SplitConfig(validation=0.1, test=0.2)
    counts = Counter(split_of(cluster, config) for cluster in CLUSTERS)
    assert counts["test"] / len(CLUSTERS) == pytest.approx(0.2, abs=0.01)
    assert counts["validation"] / len(CLUSTERS) == pytest.approx(0.1, abs=0.01)
    assert [split_of(cluster, config) for cluster in CLUSTERS[:50]] == [
        split_of(cluster, config) for cluster in reversed(CLUSTERS[:50])
    ][::-1]


def test_another_seed_splits_anew() -> None:
    first, second = SplitConfig(seed=0), SplitConfig(seed=1)
    assert any(split_of(cluster, first) != split_of(cluster, second) for cluster in CLUSTERS)


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ValidationError, match="must stay below 1"):
        SplitConfig(validation=0.5, test=0.5)


ORIGINAL = "가나다라마바사아자차카타파하 " * 20
CORPUS = {
    "law": {"0": ORIGINAL + "끝", "1": "법률 문서입니다. " * 20},
    "tech": {"0": ORIGINAL, "1": "기술 문서입니다. " * 20, "2": "기술 문서입니다! " * 20},
}


def sources(corpora: Corpora, domain: str) -> list[Path]:
    return document_files(corpora.clean[domain])


def survivors_in(folder: Path) -> list[dict]:
    return [row for split in SPLITS for row in pq.read_table(folder / f"{split}.parquet").to_pylist()]


def test_documents_of_two_domains_with_equal_ids_are_told_apart(tmp_path: Path) -> None:
    corpora = Corpora(tmp_path, DedupConfig())
    corpora.decide(CORPUS)
    counts = apply_decisions(
        sources(corpora, "tech"), corpora.out / "decisions" / "tech.parquet", SplitConfig(), tmp_path / "tech"
    )
    assert counts.removed == {"near-duplicate": 1, "exact duplicate": 1}
    near, exact = pq.read_table(tmp_path / "tech" / "removed.parquet").to_pylist()
    assert (near["id"], near["survivor_domain"], near["survivor_id"]) == ("0", "law", "0")
    assert 0.8 <= near["jaccard"] < 1
    assert near["reason"] == "near-duplicate"
    assert near["text"] == CORPUS["tech"]["0"]
    assert (exact["id"], exact["survivor_id"], exact["reason"]) == ("2", "1", "exact duplicate")
    assert [(row["id"], row["cluster_id"]) for row in survivors_in(tmp_path / "tech")] == [("1", "tech/1")]


def test_bytes_and_documents_add_up(tmp_path: Path) -> None:
    corpora = Corpora(tmp_path, DedupConfig())
    corpora.decide(CORPUS)
    counts = apply_decisions(
        sources(corpora, "tech"), corpora.out / "decisions" / "tech.parquet", SplitConfig(), tmp_path / "tech"
    )
    assert counts.documents_in == 3 == counts.splits.total() + counts.removed.total()
    assert counts.text_bytes_in == sum(len(text.encode()) for text in CORPUS["tech"].values())
    assert counts.text_bytes == len(CORPUS["tech"]["1"].encode())


def test_boilerplate_is_taken_out_and_who_has_nothing_else_is_logged(tmp_path: Path) -> None:
    footer = "저작권자 새벽신문 무단 전재 및 재배포 금지"
    bodies = [
        f"{number}번째 기사입니다. 오늘은 {number * 7}번 길에서 있었던 일을 씁니다." for number in range(40)
    ]
    corpus = {"news": {str(number): f"{body}\n{footer}" for number, body in enumerate(bodies)}}
    corpus["news"]["only"] = f"끝\n{footer}"
    corpora = Corpora(tmp_path, DedupConfig(threshold=0.99), documents_per_file=7)
    corpora.decide(corpus)
    files, decisions = sources(corpora, "news"), corpora.out / "decisions" / "news.parquet"
    boilerplate = find_boilerplate(
        lambda: survivors(files, decisions),
        BoilerplateConfig(remove=True),
        punctuation="ascii",
        workspace=tmp_path / "scratch",
        memory_bytes=1 << 20,
    )
    counts = apply_decisions(
        files, decisions, SplitConfig(), tmp_path / "news", boilerplate=boilerplate, min_characters_left=5
    )
    assert counts.removed == {"boilerplate only": 1}
    assert counts.documents_shortened == 40
    assert counts.splits.total() == 40
    assert {row["id"]: row["text"] for row in survivors_in(tmp_path / "news")} == {
        str(number): body for number, body in enumerate(bodies)
    }
    (removed,) = pq.read_table(tmp_path / "news" / "removed.parquet").to_pylist()
    assert (removed["id"], removed["survivor_id"], removed["text"]) == ("only", None, corpus["news"]["only"])


def test_decisions_about_other_documents_are_refused(tmp_path: Path) -> None:
    corpora = Corpora(tmp_path, DedupConfig())
    corpora.decide({"law": {str(number): f"글 {number} " * 50 for number in range(7)}})
    files, decisions = sources(corpora, "law"), corpora.out / "decisions" / "law.parquet"
    with pytest.raises(
        ValueError, match=r"law\.parquet is about other documents: materialize duplicate_clusters"
    ):
        apply_decisions(files[1:], decisions, SplitConfig(), tmp_path / "fewer")
    with pytest.raises(
        ValueError, match=r"law\.parquet is about more documents: materialize duplicate_clusters"
    ):
        apply_decisions(files[:-1], decisions, SplitConfig(), tmp_path / "cut")

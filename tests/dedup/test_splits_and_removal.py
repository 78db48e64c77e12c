"""Splits follow clusters, and every document is kept, or removed with its survivor named."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.decisions import deduplicate
from yunmin_assets.dedup.removal import apply_decisions, decisions_by_domain, qualify_ids
from yunmin_assets.dedup.splits import SplitConfig, split_of
from yunmin_assets.documents import DOCUMENT_SCHEMA, SPLITS

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


def documents_of(domain: str, texts: list[str]) -> pa.Table:
    rows = [{"id": str(number), "text": text, "domain": domain} for number, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, DOCUMENT_SCHEMA)


def test_documents_of_two_domains_with_equal_ids_are_told_apart(tmp_path: Path) -> None:
    original = "가나다라마바사아자차카타파하 " * 20
    law = documents_of("law", [original + "끝", "법률 문서입니다. " * 20])
    tech = documents_of("tech", [original, "기술 문서입니다. " * 20])
    both = pa.concat_tables(
        [
            table.set_column(0, "id", qualify_ids(name, table["id"]))
            for name, table in (("law", law), ("tech", tech))
        ]
    )
    decisions = decisions_by_domain(deduplicate(both, DedupConfig()), both["domain"])
    counts = apply_decisions(tech, decisions["tech"], SplitConfig(), tmp_path / "tech")
    assert counts["removed"] == 1
    (removed,) = pq.read_table(tmp_path / "tech" / "removed.parquet").to_pylist()
    assert (removed["id"], removed["survivor_domain"], removed["survivor_id"]) == ("0", "law", "0")
    assert removed["jaccard"] >= 0.8
    assert removed["reason"] == "near-duplicate"
    kept = [
        row for split in SPLITS for row in pq.read_table(tmp_path / "tech" / f"{split}.parquet").to_pylist()
    ]
    assert [(row["id"], row["cluster_id"]) for row in kept] == [("1", "tech/1")]


def test_decisions_about_other_documents_are_refused(tmp_path: Path) -> None:
    table = documents_of("law", ["하나 " * 50, "둘 " * 50])
    qualified = table.set_column(0, "id", qualify_ids("law", table["id"]))
    decisions = decisions_by_domain(deduplicate(qualified, DedupConfig()), qualified["domain"])["law"]
    with pytest.raises(ValueError, match="about other documents"):
        apply_decisions(table.slice(1), decisions, SplitConfig(), tmp_path)

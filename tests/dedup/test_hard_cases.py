"""Inputs that make a careless implementation run for hours or out of memory."""

import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from tests.dedup.hard_corpora import huge, identical, near_identical
from tests.dedup.lake_files import read_found
from yunmin_assets.dedup import DedupConfig, deduplicate

BUDGET_MB = 64


def table_of(documents: dict[str, str]) -> pa.Table:
    return pa.table({"id": list(documents), "text": pa.array(documents.values(), pa.large_string())})


def test_a_hundred_thousand_identical_documents_take_seconds() -> None:
    table = table_of(identical())
    started = time.process_time()
    for config in (DedupConfig(), DedupConfig.slimpajama()):
        decisions = deduplicate(table, config)
        assert decisions["kept"].to_pylist().count(True) == 1
        assert set(decisions["survivor_id"].to_pylist()) == {"d000000"}
    assert time.process_time() - started < 20


def test_a_bucket_of_fifty_thousand_near_identical_documents_is_linear() -> None:
    table = table_of(near_identical())
    started = time.process_time()
    for survivors in ("anchored", "linked"):
        decisions = deduplicate(table, DedupConfig(survivors=survivors))
        assert set(decisions["survivor_id"].to_pylist()) == {"d00000"}
        assert min(decisions["jaccard"].to_pylist()) > 0.9
    assert time.process_time() - started < 60


def test_one_huge_document_costs_its_own_size_only() -> None:
    """A table per document of the largest size would be terabytes."""
    table = table_of(huge())
    assert len(table["text"][0].as_py().encode()) > 49e6
    decisions = deduplicate(table, DedupConfig())
    assert decisions["kept"].to_pylist()[:2] == [False, True]
    assert 0.99 < decisions["jaccard"][0].as_py() < 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="anonymous memory is read from /proc")
@pytest.mark.parametrize(
    ("kind", "allowed_mb", "survivor"),
    [
        (
            "near_identical",
            2 * BUDGET_MB,
            "web/d00000",
        ),  # one component: 400 MB of texts, signatures and shingles
        ("identical", 2 * BUDGET_MB, "web/d000000"),
        ("huge", 2000, "web/huge-b"),  # two documents of 50 MB at once
    ],
)
def test_memory_follows_the_budget(tmp_path: Path, kind: str, allowed_mb: int, survivor: str) -> None:
    """Up to what allocators keep: twice the budget beside what the process had before."""
    module = [sys.executable, "-m", "tests.dedup.hard_corpora"]
    subprocess.run([*module, "write", kind, str(tmp_path)], check=True)
    measure = [*module, "measure", str(tmp_path), str(BUDGET_MB)]
    before, peak = map(
        float, subprocess.run(measure, check=True, capture_output=True, text=True).stdout.split()
    )
    assert peak - before < allowed_mb
    found = read_found(tmp_path / "1" / "out")
    assert found[survivor] == (survivor, 1.0, None)

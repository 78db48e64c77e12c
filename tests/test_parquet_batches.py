"""Whoever goes through a Parquet file keeps no row group that it has passed."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from tests.columnar.toy_domain import WORDS
from yunmin_assets.columnar import PackConfig, TokenizerConfig, read_document_batches, train_tokenizer
from yunmin_assets.columnar.mixture import mixture_batches
from yunmin_assets.corpus.listing import look_again
from yunmin_assets.corpus.raw import inspect_object, read_lines
from yunmin_assets.dedup.removal import DOMAIN_DECISION_SCHEMA, with_decisions
from yunmin_assets.documents import DOCUMENT_SCHEMA, iterate_texts
from yunmin_assets.parquet_batches import iterate_batches

ROW_GROUPS, DOCUMENTS_OF_GROUP, TEXT_BYTES = 40, 64, 8192
BYTES_OF_GROUP = DOCUMENTS_OF_GROUP * TEXT_BYTES


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 40 row groups, half a megabyte each, that do not compress."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("documents") / "law.parquet"
    with pq.ParquetWriter(path, DOCUMENT_SCHEMA, compression="none", use_dictionary=False) as writer:
        for group in range(ROW_GROUPS):
            rows = [
                {"id": f"{group}-{number}", "text": random.bytes(TEXT_BYTES // 2).hex(), "domain": "law"}
                for number in range(DOCUMENTS_OF_GROUP)
            ]
            writer.write_table(pa.Table.from_pylist(rows, DOCUMENT_SCHEMA))
    return path


def decisions_about(path: Path) -> Path:
    """A file of decisions as large as the documents, in row groups of as many rows."""
    decisions = path.with_name("decisions.parquet")
    with pq.ParquetWriter(
        decisions, DOMAIN_DECISION_SCHEMA, compression="none", use_dictionary=False
    ) as writer:
        for batch in iterate_batches(path, ["id", "text"], DOCUMENTS_OF_GROUP):
            text, rows = batch["text"].cast(pa.string()), batch.num_rows
            columns = {
                "id": batch["id"],
                "kept": [True] * rows,
                "jaccard": [1.0] * rows,
                "reason": [None] * rows,
            }
            columns |= dict.fromkeys(("cluster_id", "survivor_domain", "survivor_id"), text)
            writer.write_table(pa.table(columns, schema=DOMAIN_DECISION_SCHEMA))
    return decisions


def by_mixture(path: Path) -> Iterator[Any]:
    """Look at every document, and take none."""
    seen: list[int] = []
    tokenizer = path.with_name("tokenizer")
    if not tokenizer.exists():
        train_tokenizer(iter([WORDS]), TokenizerConfig(vocab_size=300), tokenizer)

    def belongs(_: str) -> bool:
        seen.append(pa.total_allocated_bytes())
        return False

    with pytest.raises(ValueError, match="no token"):
        mixture_batches(
            [path], tokenizer, path.with_name("rows"), PackConfig(), batch_size=1, seed=0, belongs=belongs
        )
    assert len(seen) == ROW_GROUPS * DOCUMENTS_OF_GROUP
    yield from seen


def by_raw_lines(path: Path) -> Iterator[Any]:
    root = UPath(path.parent)
    listed = look_again(root, path.name)
    assert listed is not None
    return read_lines(root, inspect_object(root, listed))


def largest_memory(items: Iterable[Any]) -> int:
    """Arrow's memory while something goes through `items`, at its largest, over that before."""
    before = largest = pa.total_allocated_bytes()
    for item in items:
        largest = max(largest, item if isinstance(item, int) else pa.total_allocated_bytes())
    return largest - before


READERS: dict[str, tuple[Callable[[Path], Iterable[Any]], int]] = {
    "iterate_batches": (lambda path: iterate_batches(path, ["text"], 1024), 1),
    "texts": (lambda path: iterate_texts([path]), 1),
    "mixture": (by_mixture, 1),
    "raw lines": (by_raw_lines, 1),
    "document batches": (lambda path: read_document_batches(path, ["text"]), 1),
    "documents and decisions": (lambda path: with_decisions([path], decisions_about(path)), 4),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_keeps_the_row_groups_that_it_has_passed(reader: str, documents: Path) -> None:
    read, columns = READERS[reader]
    assert 0 < largest_memory(read(documents)) < 6 * columns * BYTES_OF_GROUP


def test_reading_without_row_groups_would_keep_them(documents: Path) -> None:
    with pq.ParquetFile(documents) as parquet:
        kept = largest_memory(parquet.iter_batches(1024, columns=["text"]))
    assert kept > ROW_GROUPS / 2 * BYTES_OF_GROUP


def test_batches_of_some_row_groups_come_in_the_order_asked_for(documents: Path) -> None:
    batches = [*iterate_batches(documents, ["id"], 50, row_groups=[3, 1])]
    assert [batch.num_rows for batch in batches] == [50, 14, 50, 14]
    assert [batch["id"][0].as_py() for batch in batches] == ["3-0", "3-50", "1-0", "1-50"]

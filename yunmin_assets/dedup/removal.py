"""From decisions to a corpus: the documents that stay, by split, and a log of those that go.

A row group of documents at a time is in memory.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.dedup.boilerplate.repeated_paragraphs import (
    BOILERPLATE_ONLY,
    Boilerplate,
    remove_boilerplate,
)
from yunmin_assets.dedup.splits import SplitConfig, split_of
from yunmin_assets.documents import DOCUMENT_SCHEMA, ROW_GROUP_DOCUMENTS, SPLITS, RowGroupWriter, split_path
from yunmin_assets.parquet_batches import iterate_batches
from yunmin_assets.progress import Log, Progress, silent

NEAR_DUPLICATE = "near-duplicate"
REMOVED_FILE = "removed.parquet"

DOMAIN_DECISION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("cluster_id", pa.string(), nullable=False),  # domain/id of the survivor
        pa.field("survivor_domain", pa.string(), nullable=False),
        pa.field("survivor_id", pa.string(), nullable=False),
        pa.field("jaccard", pa.float64(), nullable=False),
        pa.field("reason", pa.string()),  # EXACT_DUPLICATE, NEAR_DUPLICATE, or null for who stays
    ]
)
SURVIVOR_SCHEMA = DOCUMENT_SCHEMA.append(pa.field("cluster_id", pa.string(), nullable=False))
REMOVAL_LOG_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("survivor_domain", pa.string()),  # null for who goes without a survivor
        pa.field("survivor_id", pa.string()),
        pa.field("jaccard", pa.float64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)


@dataclass
class RemovalCounts:
    """Where the documents and bytes of a domain went."""

    documents_in: int = 0
    text_bytes_in: int = 0
    text_bytes: int = 0
    """Of the documents that stay, without the boilerplate that was taken out."""
    splits: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    """By reason."""
    paragraphs_taken_out: int = 0
    """Occurrences of boilerplate, also in documents of which too little was left."""
    bytes_taken_out: int = 0
    documents_shortened: int = 0
    """Documents that stay without some boilerplate."""


def with_decisions(sources: Sequence[Path], decisions: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Documents (`DOCUMENT_SCHEMA`) and the decisions about them, a row group at a time.

    Raises:
        ValueError: the decisions are not about these documents.
    """
    batches = iterate_batches(decisions, DOMAIN_DECISION_SCHEMA.names, ROW_GROUP_DOCUMENTS)
    waiting = DOMAIN_DECISION_SCHEMA.empty_table()
    for documents in _row_groups(sources):
        while waiting.num_rows < documents.num_rows and (batch := next(batches, None)) is not None:
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        about, waiting = waiting.slice(0, documents.num_rows), waiting.slice(documents.num_rows)
        if not documents["id"].equals(about["id"]):
            raise ValueError(f"{decisions} is about other documents: materialize duplicate_clusters again")
        yield documents, about
    if waiting.num_rows or next(batches, None) is not None:
        raise ValueError(f"{decisions} is about more documents: materialize duplicate_clusters again")


def survivors(sources: Sequence[Path], decisions: Path) -> Iterator[pa.Table]:
    """The documents that stay, a row group at a time. Raises as `with_decisions`."""
    for documents, about in with_decisions(sources, decisions):
        yield documents.filter(about["kept"])


def apply_decisions(
    sources: Sequence[Path],
    decisions: Path,
    splits: SplitConfig,
    folder: Path,
    *,
    boilerplate: Boilerplate | None = None,
    min_characters_left: int = 1,
    log: Log = silent,
) -> RemovalCounts:
    """Write train, validation and test of one domain, and `removed.parquet`.

    Args:
        sources: files of `DOCUMENT_SCHEMA`.
        decisions: file of `DOMAIN_DECISION_SCHEMA`, one row per document in the same order.
        splits: shares that are held out.
        folder: where the files go.
        boilerplate: to be taken out of the texts that stay, or None.
        min_characters_left: documents with less left go too.
        log: progress.

    Raises:
        ValueError: the decisions are not about these documents.
    """
    counts = RemovalCounts()
    with (
        ExitStack() as files,
        Progress(log, "documents put into splits", pq.read_metadata(decisions).num_rows) as progress,
    ):
        writers = {
            split: files.enter_context(RowGroupWriter(split_path(folder, split), SURVIVOR_SCHEMA))
            for split in SPLITS
        }
        removed = files.enter_context(RowGroupWriter(folder / REMOVED_FILE, REMOVAL_LOG_SCHEMA))
        for documents, about in with_decisions(sources, decisions):
            kept = documents.filter(about["kept"]).append_column(
                SURVIVOR_SCHEMA.field("cluster_id"), about["cluster_id"].filter(about["kept"])
            )
            gone = _log_of_duplicates(documents, about)
            if boilerplate is not None:
                removal = remove_boilerplate(kept, boilerplate, min_characters_left=min_characters_left)
                gone = pa.concat_tables([gone, _log_of_leftovers(kept, removal.too_little_left)])
                kept = removal.documents.filter(pa.array(~removal.too_little_left))
                counts.paragraphs_taken_out += removal.paragraphs_removed
                counts.bytes_taken_out += removal.bytes_removed
                counts.documents_shortened += removal.documents_changed - int(removal.too_little_left.sum())
            removed.write(gone)
            _write_splits(kept, splits, writers, counts)
            counts.documents_in += documents.num_rows
            counts.text_bytes_in += _text_bytes(documents)
            counts.text_bytes += _text_bytes(kept)
            counts.removed.update(gone["reason"].to_pylist())
            progress.advance(documents.num_rows)
    return counts


def _row_groups(sources: Sequence[Path]) -> Iterator[pa.Table]:
    for source in sources:
        with pq.ParquetFile(source) as file:
            for group in range(file.metadata.num_row_groups):
                yield file.read_row_group(group)


def _write_splits(
    kept: pa.Table, config: SplitConfig, writers: dict[str, RowGroupWriter], counts: RemovalCounts
) -> None:
    chosen = np.array([split_of(cluster, config) for cluster in kept["cluster_id"].to_pylist()], object)
    for split, writer in writers.items():
        table = kept.filter(pa.array(chosen == split))
        writer.write(table)
        counts.splits[split] += table.num_rows


def _log_of_duplicates(documents: pa.Table, about: pa.Table) -> pa.Table:
    """The documents that go: their text, the survivor they yield to and the exact Jaccard between them."""
    gone = pc.invert(about["kept"])
    columns = [about[name].filter(gone) for name in REMOVAL_LOG_SCHEMA.names[:-1]]
    return pa.table([*columns, documents["text"].filter(gone)], schema=REMOVAL_LOG_SCHEMA)


def _log_of_leftovers(kept: pa.Table, too_little_left: npt.NDArray[np.bool_]) -> pa.Table:
    gone = kept.filter(pa.array(too_little_left))
    nothing = pa.nulls(gone.num_rows)
    reason = pa.array([BOILERPLATE_ONLY] * gone.num_rows, pa.string())
    columns = [gone["id"], nothing.cast(pa.string()), nothing.cast(pa.string()), nothing.cast(pa.float64())]
    return pa.table([*columns, reason, gone["text"]], schema=REMOVAL_LOG_SCHEMA)


def _text_bytes(documents: pa.Table) -> int:
    return pc.sum(pc.binary_length(documents["text"]).cast(pa.int64())).as_py() or 0

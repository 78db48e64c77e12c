"""From a cut to a corpus: the documents that stay, and a log of those that go; a row group at a time."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.documents import ROW_GROUP_DOCUMENTS, RowGroupWriter, split_path
from yunmin_assets.parquet_batches import iterate_batches
from yunmin_assets.progress import Log, Progress, silent
from yunmin_assets.pruning.reading import RowReader, row_count
from yunmin_assets.pruning.selection import Cut, Mask, removal_reasons

REMOVED_FILE = "removed.parquet"
REMOVED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("perplexity", pa.float64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)


@dataclass
class PruningCounts:
    """Every document of a domain, accounted for."""

    documents_in: int = 0
    text_bytes_in: int = 0
    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0
    """Of the kept documents, as the reference model counts them."""
    removed: Counter[str] = field(default_factory=Counter)
    """By reason."""
    kept: Mask = field(default_factory=lambda: np.empty(0, bool))
    """By row."""


def prune_documents(
    documents: Path, scores: Path, cut: Cut, folder: Path, *, log: Log = silent
) -> PruningCounts:
    """Write `train.parquet` (the kept documents) and `removed.parquet` (id, perplexity, reason, text) of a domain.

    Args:
        documents: Parquet file of documents.
        scores: what `score_file` wrote about them.
        cut: of the domain.
        folder: where the files go.

    Raises:
        ValueError: the scores are not about these documents.
    """
    if row_count(documents) != row_count(scores):
        raise ValueError("the scores are about other documents: materialize perplexity again")
    schema, reader = pq.read_schema(documents), RowReader(scores, ["id", "perplexity", "n_tokens"])
    counts, masks = PruningCounts(), [np.empty(0, bool)]
    with (
        RowGroupWriter(split_path(folder, "train"), schema) as kept_writer,
        RowGroupWriter(folder / REMOVED_FILE, REMOVED_SCHEMA) as removed_writer,
        Progress(log, "documents", row_count(documents)) as progress,
    ):
        for batch in iterate_batches(documents, schema.names, ROW_GROUP_DOCUMENTS):
            some = pa.Table.from_batches([batch])
            scored = reader.take(some.num_rows)
            if scored["id"].to_pylist() != some["id"].to_pylist():
                raise ValueError("the scores are about other documents: materialize perplexity again")
            reasons = removal_reasons(scored, cut)
            masks.append(reasons.is_null().to_numpy(zero_copy_only=False))
            removed = _removed(some, scored, reasons)
            kept_writer.write(some.filter(pa.array(masks[-1])))
            removed_writer.write(removed)
            counts.removed.update(removed["reason"].to_pylist())
            _count(some, scored, masks[-1], counts)
            progress.advance(some.num_rows)
    counts.kept = np.concatenate(masks)
    return counts


def _removed(documents: pa.Table, scores: pa.Table, reasons: pa.Array) -> pa.Table:
    columns = {
        "id": scores["id"],
        "perplexity": scores["perplexity"],
        "reason": reasons,
        "text": documents["text"].cast(pa.large_string()),
    }
    return pa.table(columns).filter(pc.is_valid(pc.field("reason"))).cast(REMOVED_SCHEMA)


def _count(documents: pa.Table, scores: pa.Table, kept: Mask, counts: PruningCounts) -> None:
    lengths = pc.binary_length(documents["text"]).to_numpy().astype(np.int64)
    counts.documents_in += len(kept)
    counts.text_bytes_in += int(lengths.sum())
    counts.documents += int(np.count_nonzero(kept))
    counts.text_bytes += int(lengths[kept].sum())
    counts.tokens += int(scores["n_tokens"].to_numpy()[kept].sum())

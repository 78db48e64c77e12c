"""From a selection to a corpus: the documents that stay, and a log of those that go."""

from pathlib import Path

import pyarrow as pa

from yunmin_assets.documents import split_path, write_documents
from yunmin_assets.pruning.config import PruningConfig
from yunmin_assets.pruning.selection import Selection, select_documents


def prune_documents(documents: pa.Table, scores: pa.Table, config: PruningConfig, folder: Path) -> Selection:
    """Write `train.parquet` (the kept documents) and `removed.parquet` (id, perplexity, text of the others).

    Args:
        documents: columns `id` and `text` at least.
        scores: what `score_documents` returned for them, in the same order.
        config: criterion and rate.
        folder: where the files go.

    Raises:
        ValueError: the scores are not about these documents.
    """
    if not documents["id"].equals(scores["id"]):
        raise ValueError("the scores are about other documents: materialize perplexity again")
    selection = select_documents(scores, config)
    kept = pa.array(selection.kept)
    gone = pa.array(~selection.kept)
    removed = scores.select(["id", "perplexity"]).append_column("text", documents["text"]).filter(gone)
    write_documents(documents.filter(kept), split_path(folder, "train"))
    write_documents(removed, folder / "removed.parquet")
    return selection

"""What a person wants to see of pruning: the distribution, the cuts, and examples from each band."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.plots import histogram, markdown_table
from yunmin_assets.pruning.selection import Selection

EXAMPLE_CHARACTERS = 160
EXAMPLES = 5


def describe_scores(
    scores: pa.Table, documents: pa.Table
) -> tuple[dict[str, int | float], dict[str, str], list[str]]:
    """Figures, Markdown by name, and the ids of documents whose perplexity is not finite."""
    valid = scores.filter(pc.is_valid(scores["perplexity"]))
    values = valid["perplexity"].to_numpy()
    not_finite = [
        identifier
        for identifier, value in zip(valid["id"].to_pylist(), values, strict=True)
        if not np.isfinite(value)
    ]
    tokens, nll = int(scores["n_tokens"].to_numpy().sum()), float(scores["nll"].to_numpy().sum())
    figures: dict[str, int | float] = {
        "documents": scores.num_rows,
        "tokens": tokens,
        "perplexity_of_all_tokens": float(np.exp(nll / max(tokens, 1))),
        "median_perplexity": float(np.median(values)) if len(values) else float("nan"),
        "documents_without_tokens": scores.num_rows - valid.num_rows,
    }
    rendered = {
        "distribution": histogram(
            values, title="Perplexity of documents", xlabel="perplexity", logarithmic=True
        ),
        "examples": _examples(scores, documents, np.ones(scores.num_rows, bool)),
    }
    return figures, rendered, not_finite


def describe_selection(
    documents: pa.Table, scores: pa.Table, selection: Selection
) -> tuple[dict[str, int | float], dict[str, str]]:
    """Figures of one domain after pruning, and Markdown by name."""
    lengths = pc.binary_length(documents["text"]).to_numpy().astype(np.int64)
    bytes_in, bytes_kept = int(lengths.sum()), int(lengths[selection.kept].sum())
    tokens = scores["n_tokens"].to_numpy()
    figures: dict[str, int | float] = {
        "documents_in": documents.num_rows,
        "documents": int(selection.kept.sum()),
        "removed_documents": sum(selection.removed.values()),
        "text_bytes_in": bytes_in,
        "text_bytes": bytes_kept,
        "kept_share_of_bytes": bytes_kept / max(bytes_in, 1),
        "tokens": int(tokens[selection.kept].sum()),
    }
    cuts = {"lowest kept": selection.lowest_kept, "highest kept": selection.highest_kept}
    marks = {name: value for name, value in cuts.items() if value is not None}
    figures |= {f"perplexity {name}": value for name, value in marks.items()}
    rendered = {
        "distribution": histogram(
            scores["perplexity"].drop_null().to_numpy(),
            title="Perplexity and cuts",
            xlabel="perplexity",
            marks=marks,
            logarithmic=True,
        ),
        "sample_of_kept": _examples(scores, documents, selection.kept),
        "sample_of_removed": _examples(scores, documents, ~selection.kept),
    }
    return figures, rendered


def _examples(scores: pa.Table, documents: pa.Table, mask: np.ndarray) -> str:
    return markdown_table(["perplexity", "id", "text"], _example_rows(scores, documents, mask))


def _example_rows(
    scores: pa.Table, documents: pa.Table, mask: np.ndarray
) -> Iterator[tuple[float, str, str]]:
    """Documents spread evenly over the order by perplexity, from the lowest to the highest."""
    perplexity = scores["perplexity"].to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(mask & np.isfinite(perplexity))
    ordered = rows[np.argsort(perplexity[rows], kind="stable")]
    if not len(ordered):
        return
    for row in ordered[np.unique(np.linspace(0, len(ordered) - 1, EXAMPLES).astype(int))]:
        text = documents["text"][int(row)].as_py()[:EXAMPLE_CHARACTERS]
        yield float(perplexity[row]), documents["id"][int(row)].as_py(), text

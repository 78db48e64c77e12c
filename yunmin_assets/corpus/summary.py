"""What a person wants to see of a cleaned domain."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.corpus.clean import CleanSummary
from yunmin_assets.plots import histogram, markdown_table

SAMPLE_ROWS = 5
CELL_CHARACTERS = 120


def describe_cleaning(folder: Path, summary: CleanSummary) -> tuple[dict[str, int | float], dict[str, str]]:
    """Plain figures, and Markdown by name: reasons, samples of what was removed, a plot of lengths."""
    plain: dict[str, int | float] = {
        "lines": summary.lines,
        "documents": summary.documents,
        "removed_documents": sum(summary.removed.values()),
        "rejected_lines": sum(summary.rejected.values()),
        "text_bytes_in": summary.bytes_raw_text,
        "text_bytes": summary.bytes_clean_text,
        "kept_share_of_bytes": summary.bytes_clean_text / max(summary.bytes_raw_text, 1),
    }
    reasons = [
        *summary.removed.items(),
        *(("rejected: " + kind, count) for kind, count in summary.rejected.items()),
    ]
    rendered = {
        "removed_by_reason": markdown_table(["reason", "documents or lines"], reasons),
        "sample_of_removed": _sample(folder / "removed.parquet", ["id", "reason", "excerpt"]),
        "sample_of_rejects": _sample(folder / "rejects.parquet", ["file", "line", "reason"]),
        "document_lengths": histogram(
            _lengths(folder), title="Document length", xlabel="characters", logarithmic=True
        ),
    }
    return plain, rendered


def _sample(path: Path, columns: list[str]) -> str:
    rows = pq.read_table(path, columns=columns).slice(0, SAMPLE_ROWS).to_pylist()
    return markdown_table(columns, [[str(value)[:CELL_CHARACTERS] for value in row.values()] for row in rows])


def _lengths(folder: Path) -> np.ndarray:
    columns = [
        pq.read_table(path, columns=["text"])["text"] for path in sorted(folder.glob("documents-*.parquet"))
    ]
    lengths = [pc.utf8_length(column).cast(pa.int64()).to_numpy() for column in columns]
    return np.concatenate(lengths) if lengths else np.empty(0)

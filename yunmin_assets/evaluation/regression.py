"""Is the merged model worse than the one of the last report? Document by document, on the documents both have seen.

Losses are compared in bits per *byte* of text, so that a new tokenizer does not make two reports incomparable. Only
documents that were measured in both reports, with unchanged text and in windows of the same length, take part. The test
is the paired bootstrap of the report itself, corrected over the domains (Holm).
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.measure import FEWEST_DOCUMENTS, LOSSES_SCHEMA
from yunmin_assets.evaluation.model import ChangeRow
from yunmin_assets.paired_bootstrap import judge, paired_difference

LOSSES_FILE = "losses.parquet"
WINDOW = b"max_length"

Losses = Mapping[tuple[str, str], tuple[float, int]]
"""By id and hash of the text: loss in nats, and bytes."""


def write_losses(losses: pa.Table, folder: Path, config: EvaluationConfig) -> None:
    """Write every document's loss under every model beside a report."""
    named = losses.replace_schema_metadata({WINDOW: str(config.max_length)})
    pq.write_table(named, folder / LOSSES_FILE, compression="zstd")


def compare_with_last(current: pa.Table, last: Path, model: str, config: EvaluationConfig) -> list[ChangeRow]:
    """Compare a model with itself in the last report.

    Args:
        current: losses of this report (`LOSSES_SCHEMA`).
        last: folder of the last report; one without losses of the same kind has nothing to compare with.
        model: name of the model in both.

    Returns:
        One row per domain with at least 20 documents in both reports.
    """
    losses = _read_losses(last / LOSSES_FILE, config)
    if losses is None:
        return []
    before, now = _by_domain(losses, model), _by_domain(current, model)
    pairs = {domain: _pairs(before[domain], now[domain]) for domain in now if domain in before}
    pairs = {domain: pair for domain, pair in pairs.items() if len(pair) >= FEWEST_DOCUMENTS}
    options = (config.bootstrap_samples, config.confidence, config.seed)
    differences = {
        domain: paired_difference(pair[:, 1], pair[:, 0], pair[:, 2].astype(np.int64), *options)
        for domain, pair in pairs.items()
    }
    verdicts = judge(differences, config.confidence)
    return [
        ChangeRow(
            domain=domain,
            documents=len(pair),
            before=float(pair[:, 0].sum() / pair[:, 2].sum()),
            now=float(pair[:, 1].sum() / pair[:, 2].sum()),
            difference=differences[domain].difference,
            low=differences[domain].low,
            high=differences[domain].high,
            p_value=verdicts[domain][1],
            verdict=verdicts[domain][0],
        )
        for domain, pair in pairs.items()
    ]


def _read_losses(path: Path, config: EvaluationConfig) -> pa.Table | None:
    """The losses beside an older report, if they were measured and stored as they are now."""
    if not path.is_file():
        return None
    losses = pq.read_table(path)
    window = (losses.schema.metadata or {}).get(WINDOW, b"").decode()
    is_comparable = losses.schema.equals(LOSSES_SCHEMA) and window == str(config.max_length)
    return losses if is_comparable else None


def _by_domain(losses: pa.Table, model: str) -> Mapping[str, Losses]:
    found: dict[str, dict[tuple[str, str], tuple[float, int]]] = {}
    for row in losses.to_pylist():
        if row["model"] == model:
            of_domain = found.setdefault(row["domain"], {})
            of_domain[row["id"], row["text_hash"]] = row["nll"], row["n_bytes"]
    return found


def _pairs(before: Losses, now: Losses) -> np.ndarray:
    """float64 [documents, 3]: loss before and now in bits, bytes."""
    rows = [(before[key][0], loss, n_bytes) for key, (loss, n_bytes) in now.items() if key in before]
    return np.array(rows, np.float64).reshape(-1, 3) / [math.log(2), math.log(2), 1]

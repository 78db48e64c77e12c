"""What pruning does to the mixture of domains: documents, bytes and tokens of each, before and after."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from yunmin_assets.parquet_batches import iterate_batches
from yunmin_assets.pruning.reading import ROWS_AT_ONCE
from yunmin_assets.pruning.selection import Cut, is_kept

MEASURES = ("documents", "bytes", "tokens")


@dataclass(frozen=True)
class DomainSize:
    """Of one domain, a number for each of `MEASURES`."""

    before: NDArray[np.int64]
    after: NDArray[np.int64]


def measure_domains(scores: Mapping[str, Path], cuts: Mapping[str, Cut]) -> dict[str, DomainSize]:
    """Go through the scores of every domain and count what there is and what its cut keeps."""
    return {domain: _measure(path, cuts[domain]) for domain, path in scores.items()}


def _measure(path: Path, cut: Cut) -> DomainSize:
    before, after = np.zeros((2, len(MEASURES)), np.int64)
    for batch in iterate_batches(path, ["id", "perplexity", "n_bytes", "n_tokens"], ROWS_AT_ONCE):
        kept = is_kept(pa.Table.from_batches([batch]), cut)
        ones = np.ones(batch.num_rows, np.int64)
        sizes = np.stack([ones, batch["n_bytes"].to_numpy(), batch["n_tokens"].to_numpy()])
        before += sizes.sum(axis=1)
        after += sizes[:, kept].sum(axis=1)
    return DomainSize(before, after)

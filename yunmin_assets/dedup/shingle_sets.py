"""Sets of 64-bit shingle hashes of the candidate documents, hashed once and compared many times.

Price: 8 bytes per shingle position of a candidate, about 3.4 times its Korean UTF-8, and a second per
300 MB of text and core. Documents that meet nobody in any band are never touched.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.kernels import collect_shingles
from yunmin_assets.dedup.normalize import normalization_table
from yunmin_assets.dedup.text_blocks import Rows, Statuses, TextBlock, run_blocks
from yunmin_assets.progress import Log


@dataclass(frozen=True)
class ShingleSets:
    """Set i is hashes[starts[i] : starts[i] + sizes[i]], distinct and without 0.

    hashes: uint64[starts[-1]]. starts: int64[sets + 1]. sizes: int64[sets].
    """

    hashes: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def shingle_sets(
    texts: pa.ChunkedArray, rows: Rows, shingle_counts: npt.NDArray[np.int32], config: DedupConfig, log: Log,
    *, scratch: Path | None = None,
) -> ShingleSets:  # fmt: skip
    """The shingle sets of texts[rows], in the order of `rows`.

    Args:
        rows: int64[c], which texts.
        shingle_counts: int32[n], `Signatures.shingles` of all texts.
        scratch: folder for a file to map, if the sets would take more than half of the memory budget.

    Raises:
        ValueError: a text has another number of shingles than its signature.
    """
    starts = np.concatenate([[0], np.cumsum(shingle_counts[rows], dtype=np.int64)])
    sets = ShingleSets(_room(int(starts[-1]), config, scratch), starts, np.zeros(rows.size, np.int64))
    positions = np.full(len(texts), -1, np.int64)
    positions[rows] = np.arange(rows.size)
    table = normalization_table(config.punctuation)
    by_words = config.ngram_unit == "word"

    def collect(block: TextBlock, accept_any_form: bool) -> Statuses:
        return collect_shingles(
            block.data, block.offsets, block.rows, block.positions, table, config.ngram, by_words,
            accept_any_form, sets.starts, sets.hashes, sets.sizes,
        )  # fmt: skip

    run_blocks(texts, positions, collect, log)
    return sets


def _room(hashes: int, config: DedupConfig, scratch: Path | None) -> npt.NDArray[np.uint64]:
    """uint64[hashes], in memory or mapped: the system writes pages of a file out when memory gets short.

    The file is called `*.tmp`: it is no checkpoint, whatever folder it lies in.
    """
    if scratch is None or hashes * np.dtype(np.uint64).itemsize <= config.memory_budget_bytes // 2:
        return np.empty(hashes, np.uint64)
    return np.memmap(scratch / "shingles.uint64.tmp", np.uint64, "w+", shape=(hashes,))

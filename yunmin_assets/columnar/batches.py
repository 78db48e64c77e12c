"""From rows of tokens to what a training step takes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from yunmin_assets.columnar.row_stream import Rows

IGNORED_LABEL = -100
"""What `torch.nn.functional.cross_entropy` leaves out by default."""


class PackedBatch(TypedDict):
    """What a step trains on; B rows, L = `seq_len`."""

    input_ids: torch.Tensor
    """int64 [B, L]"""
    labels: torch.Tensor
    """int64 [B, L], **already shifted**: `labels[:, t]` follows `input_ids[:, t]`."""
    doc_start: torch.Tensor
    """bool [B, L], true where a document starts: reset the model's state there (see document_boundaries)."""
    domain: list[str]
    """[B]"""


@dataclass(frozen=True)
class BatchMaker:
    """Widens tokens, shifts labels, unpacks document starts."""

    seq_len: int
    eos_id: int
    domains: Sequence[str]
    """What the rows' domain numbers stand for."""

    def batches(self, rows: Rows, counts: Iterable[int]) -> Iterator[PackedBatch]:
        """Cut rows into batches of so many rows each."""
        # Padding fills a row up to its end.
        may_have_padding = bool((rows.tokens[:, -2:] == self.eos_id).all(axis=1).any())
        begin = 0
        for count in counts:
            part = slice(begin, begin + count)
            yield self._batch(rows, part, may_have_padding)
            begin += count

    def _batch(self, rows: Rows, part: slice, may_have_padding: bool) -> PackedBatch:
        tokens = rows.tokens[part]
        doc_start = np.unpackbits(rows.start_bits[part], axis=1, count=self.seq_len).view(np.bool_)
        # Two copies, not two views of one row: masking labels in place must not change the inputs.
        input_ids, labels = tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)
        if may_have_padding:
            _mask_padding(input_ids, labels, doc_start, self.eos_id)
        if rows.domains is None:
            names = [self.domains[0]] * len(tokens)
        else:
            names = [self.domains[number] for number in rows.domains[part].tolist()]
        return {
            "input_ids": torch.from_numpy(input_ids),
            "labels": torch.from_numpy(labels),
            "doc_start": torch.from_numpy(doc_start),
            "domain": names,
        }


def _mask_padding(
    input_ids: NDArray[np.int64], labels: NDArray[np.int64], doc_start: NDArray[np.bool_], eos_id: int
) -> None:
    """Take the labels out that predict padding: an end-of-text after an end-of-text where no document begins.

    The last label of a row has no `doc_start` of its own; an end-of-text after another is padding there, too,
    unless an empty document begins behind it, which has nothing to predict.
    """
    starts_behind = np.zeros_like(doc_start)
    starts_behind[:, :-1] = doc_start[:, 1:]
    labels[(input_ids == eos_id) & (labels == eos_id) & ~starts_behind] = IGNORED_LABEL

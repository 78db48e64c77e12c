"""From rows of tokens to what a training step takes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch

from yunmin_assets.columnar.row_stream import Rows

IGNORED_LABEL = -100
"""What `torch.nn.functional.cross_entropy` leaves out by default."""


class PackedBatch(TypedDict):
    """What a step trains on; B rows, L = `seq_len`."""

    input_ids: torch.Tensor
    """int64 [B, L]"""
    labels: torch.Tensor
    """int64 [B, L], **already shifted**: `labels[:, t]` follows `input_ids[:, t]`. Padding, which only the last
    row cut has, is IGNORED_LABEL."""
    doc_start: torch.Tensor
    """bool [B, L], true where a document starts: reset the model's state there (see document_boundaries)."""
    domain: list[str]
    """[B]"""


@dataclass(frozen=True)
class BatchMaker:
    """Widens tokens, shifts labels, unpacks document starts."""

    seq_len: int
    domains: Sequence[str]
    """What the rows' domain numbers stand for."""

    def batches(self, rows: Rows, counts: Iterable[int]) -> Iterator[PackedBatch]:
        """Cut rows into batches of so many rows each."""
        padded_rows = np.flatnonzero(rows.padding).tolist()
        begin = 0
        for count in counts:
            end = begin + count
            padding = {row - begin: int(rows.padding[row]) for row in padded_rows if begin <= row < end}
            yield self._batch(rows, slice(begin, end), padding)
            begin = end

    def _batch(self, rows: Rows, part: slice, padding: Mapping[int, int]) -> PackedBatch:
        """`padding`: row of the batch → how many tokens at its end are padding; few rows have any."""
        tokens = rows.tokens[part]
        doc_start = np.unpackbits(rows.start_bits[part], axis=1, count=self.seq_len).view(np.bool_)
        # Two copies, not two views of one row: masking labels in place must not change the inputs.
        input_ids, labels = tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)
        for row, padding_tokens in padding.items():
            labels[row, -padding_tokens:] = IGNORED_LABEL
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

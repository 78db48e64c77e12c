"""Cut a stream of documents into training rows.

The documents are joined, each followed by the end-of-text token:

    stream   a a a E b b E c c c c E           E = eos_id
    row 0    a a a E b                          seq_len = 4: rows of 5 tokens, 4 apart
    row 1            b b E c c                  inputs = row[:-1], labels = row[1:]
    row 2                    c c c E E          the last row is filled up with E

Rows overlap by one token, so every token of the stream but the very first is predicted exactly once and none
is dropped. A row travels with one bit per input position that says whether a document starts there.

Price: a document may be split over rows, and a row may hold several documents; `doc_start` tells where.
(Only an empty document at the very end may start nowhere: its one token is a label, never an input.)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.shuffling import rows_per_block

TokenType = Literal["uint16", "uint32"]
LARGEST_VOCABULARY: dict[TokenType, int] = {"uint16": 2**16, "uint32": 2**32}


@dataclass(frozen=True)
class RowLayout:
    """Bytes of a row on its way through the shuffle: the tokens, then one bit per input position."""

    seq_len: int
    dtype: TokenType

    @classmethod
    def of(cls, config: PackConfig) -> "RowLayout":
        """The narrowest layout that holds the vocabulary.

        Raises:
            ValueError: the vocabulary needs more than 32 bits, or the end-of-text id is not part of it.
        """
        if config.eos_id >= config.vocab_size:
            raise ValueError(f"eos_id {config.eos_id} is not in the vocabulary of {config.vocab_size} tokens")
        for dtype, largest in LARGEST_VOCABULARY.items():
            if config.vocab_size <= largest:
                return cls(config.seq_len, dtype)
        raise ValueError(f"vocab_size {config.vocab_size} does not fit into 32-bit token ids")

    @property
    def token_type(self) -> np.dtype:
        """Little-endian dtype of a token."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def token_bytes(self) -> int:
        """Bytes of the tokens of a row."""
        return (self.seq_len + 1) * self.token_type.itemsize

    @property
    def record_bytes(self) -> int:
        """Bytes of a whole record."""
        return self.token_bytes + (self.seq_len + 7) // 8

    def join(self, tokens: NDArray, starts: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Records uint8 [rows, record_bytes] of tokens [rows, seq_len + 1] and start bits [rows, seq_len]."""
        token_bytes = np.ascontiguousarray(tokens).view(np.uint8)
        return np.concatenate([token_bytes, np.packbits(starts, axis=1)], axis=1)

    def split(self, records: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Bytes of the tokens [rows, token_bytes] and start bits, 0 or 1, [rows, seq_len] of records."""
        starts = np.unpackbits(records[:, self.token_bytes :], axis=1, count=self.seq_len)
        return np.ascontiguousarray(records[:, : self.token_bytes]), starts


@dataclass
class RowCounts:
    """What went through a `RowCutter`."""

    documents: int = 0
    document_tokens: int = 0
    rows: int = 0
    padding_tokens: int = 0


@dataclass
class RowCutter:
    """Turns documents into blocks of records and counts them.

    Blocks are cut at fixed places of the stream, whatever the sizes of the documents, and one block is in
    memory.
    """

    config: PackConfig
    layout: RowLayout
    counts: RowCounts = field(default_factory=RowCounts)

    def blocks(self, documents: Iterable[ArrayLike]) -> Iterator[NDArray[np.uint8]]:
        """Yield records uint8 [rows, record_bytes] in the order of the stream.

        Raises:
            ValueError: a document is not a 1-D array of integers, or has a token outside the vocabulary.
        """
        stride = self.config.seq_len
        capacity = rows_per_block(self.layout.record_bytes) * stride + 1
        tokens = np.empty(capacity, self.layout.token_type)
        starts = np.zeros(capacity, np.bool_)
        end_of_text = np.array([self.config.eos_id], self.layout.token_type)
        filled = 0
        for number, document in enumerate(documents):
            ids = self._checked(number, document)
            self.counts.documents += 1
            self.counts.document_tokens += len(ids)
            starts[filled] = True  # there is room: a full buffer is emptied below
            for piece in (ids, end_of_text):
                taken = 0
                while taken < len(piece):
                    step = min(len(piece) - taken, capacity - filled)
                    tokens[filled : filled + step] = piece[taken : taken + step]
                    filled, taken = filled + step, taken + step
                    if filled == capacity:
                        yield self._records(tokens, starts)
                        tokens[0], filled = tokens[-1], 1  # the last label is the next input
                        starts[0] = starts[-1]
                        starts[1:] = False
        if filled > 1:
            yield self._last_records(tokens, starts, filled)

    def _last_records(self, tokens: NDArray, starts: NDArray[np.bool_], filled: int) -> NDArray[np.uint8]:
        stride = self.config.seq_len
        needed = -(-(filled - 1) // stride) * stride + 1
        tokens[filled:needed] = self.config.eos_id
        self.counts.padding_tokens = needed - filled
        return self._records(tokens[:needed], starts[:needed])

    def _records(self, tokens: NDArray, starts: NDArray[np.bool_]) -> NDArray[np.uint8]:
        stride = self.config.seq_len
        rows = np.lib.stride_tricks.sliding_window_view(tokens, stride + 1)[::stride]
        self.counts.rows += len(rows)
        return self.layout.join(rows, starts[:-1].reshape(-1, stride))

    def _checked(self, number: int, document: ArrayLike) -> NDArray:
        ids = np.asarray(document)
        if ids.ndim != 1:
            raise ValueError(f"document {number} has shape {ids.shape}: token ids must be a 1-D array")
        if len(ids) == 0:
            return ids
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"document {number} has dtype {ids.dtype}: token ids must be integers")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            place = int(np.argmax((ids < 0) | (ids >= self.config.vocab_size)))
            raise ValueError(
                f"document {number}, token {place}: id {ids[place]} is outside the vocabulary "
                f"0…{self.config.vocab_size - 1}; was it tokenized with another tokenizer?"
            )
        return ids

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

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.shuffling import rows_per_block

TokenType = Literal["uint16", "uint32"]
LARGEST_VOCABULARY: dict[TokenType, int] = {"uint16": 2**16, "uint32": 2**32}
DOCUMENTS_AT_ONCE = 100_000
"""Of the shortest documents so many wait for a block: an array of one token takes 100 bytes."""
HASH_BYTES = 8
HASH_MODULUS = 2 ** (8 * HASH_BYTES)


@dataclass(frozen=True)
class RowLayout:
    """Bytes of a row on its way through the shuffle: the tokens, then one bit per input position."""

    seq_len: int
    dtype: TokenType

    @classmethod
    def of(cls, config: PackConfig) -> "RowLayout":
        """The narrowest layout that holds the vocabulary.

        Raises:
            ValueError: the vocabulary needs more than 32 bits, the end-of-text id is not part of it, or a row
                is longer than a page.
        """
        if config.eos_id >= config.vocab_size:
            raise ValueError(f"eos_id {config.eos_id} is not in the vocabulary of {config.vocab_size} tokens")
        fitting = [dtype for dtype, size in LARGEST_VOCABULARY.items() if config.vocab_size <= size]
        if not fitting:
            raise ValueError(f"vocab_size {config.vocab_size} does not fit into 32-bit token ids")
        layout = cls(config.seq_len, fitting[0])
        if layout.token_bytes > config.page_bytes:
            raise ValueError(
                f"a row of seq_len {config.seq_len} takes {layout.token_bytes:,} bytes and does not fit into a "
                f"page of {config.page_bytes:,}: raise page_bytes or lower seq_len"
            )
        return layout

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


def record_hash(records: NDArray[np.uint8]) -> int:
    """Sum of the BLAKE2b hashes of records uint8 [rows, record_bytes], modulo 2^64.

    It does not depend on the rows' order, so rows can be compared before and after the shuffle.
    """
    hashes = (blake2b(record, digest_size=HASH_BYTES).digest() for record in np.ascontiguousarray(records))
    return sum(int.from_bytes(one, "little") for one in hashes) % HASH_MODULUS


@dataclass
class RowCounts:
    """What went through a `RowCutter`."""

    documents: int = 0
    document_tokens: int = 0
    rows: int = 0
    padding_tokens: int = 0
    """At the end of the last row cut; no other row has any."""
    record_hash: int = 0
    """`record_hash` of all rows, to be compared with what was stored (see verification)."""

    @property
    def tokens(self) -> int:
        """Tokens of the stream: those of the documents, and one end-of-text token after each."""
        return self.document_tokens + self.documents


@dataclass
class RowCutter:
    """Turns documents into blocks of records and counts them.

    It can stop between two documents, be written down (`state`) and go on in another process (`resume`). In
    memory are about one block of tokens, or one document where that is larger.
    """

    config: PackConfig
    counts: RowCounts = field(default_factory=RowCounts)

    def __post_init__(self) -> None:
        self.layout = RowLayout.of(self.config)
        self._tokens = np.empty(0, self.layout.token_type)  # not yet in a row; at most `seq_len`
        self._starts = np.empty(0, np.bool_)

    def state(self) -> str:
        """Counts and tokens that wait for the next document, as JSON."""
        waiting = {"tokens": self._tokens.tolist(), "starts": np.flatnonzero(self._starts).tolist()}
        return json.dumps({"counts": asdict(self.counts), **waiting})

    @classmethod
    def resume(cls, config: PackConfig, state: str) -> "RowCutter":
        """A cutter that stands where another stood when it was asked for its `state`."""
        values = json.loads(state)
        cutter = cls(config, RowCounts(**values["counts"]))
        cutter._tokens = np.array(values["tokens"], cutter.layout.token_type)
        cutter._starts = np.zeros(len(cutter._tokens), np.bool_)
        cutter._starts[values["starts"]] = True
        return cutter

    def blocks(self, documents: Iterable[ArrayLike], *, is_last: bool = True) -> Iterator[NDArray[np.uint8]]:
        """Yield records uint8 [rows, record_bytes] in the order of the stream.

        Args:
            documents: 1-D arrays of token ids, without end-of-text token.
            is_last: no more documents follow, so the last row is filled up.

        Raises:
            ValueError: a document is not a 1-D array of integers, or has a token outside the vocabulary.
        """
        block_tokens = rows_per_block(self.layout.record_bytes) * self.config.seq_len
        waiting: list[NDArray] = []
        waiting_tokens = 0
        for document in documents:
            ids = self._checked(document)
            waiting.append(ids)
            waiting_tokens += len(ids) + 1
            if waiting_tokens >= block_tokens or len(waiting) == DOCUMENTS_AT_ONCE:
                self._append(waiting)
                yield from self._whole_rows()
                waiting, waiting_tokens = [], 0
        self._append(waiting)
        yield from self._whole_rows()
        if is_last and len(self._tokens) > 1:
            self._fill_up()
            yield from self._whole_rows()

    def _append(self, documents: list[NDArray]) -> None:
        """Add documents, each with its end-of-text token, to the tokens that are not in a row yet."""
        ends = len(self._tokens) + np.cumsum([len(ids) + 1 for ids in documents], dtype=np.int64)
        size = int(ends[-1]) if documents else len(self._tokens)
        tokens = np.full(size, self.config.eos_id, self.layout.token_type)
        starts = np.zeros(size, np.bool_)
        tokens[: len(self._tokens)], starts[: len(self._starts)] = self._tokens, self._starts
        for ids, end in zip(documents, ends, strict=True):
            start = end - len(ids) - 1
            tokens[start : end - 1] = ids
            starts[start] = True
        self._tokens, self._starts = tokens, starts

    def _fill_up(self) -> None:
        padding = -(len(self._tokens) - 1) % self.config.seq_len
        self.counts.padding_tokens = padding
        self._tokens = np.append(self._tokens, np.full(padding, self.config.eos_id, self._tokens.dtype))
        self._starts = np.append(self._starts, np.zeros(padding, np.bool_))

    def _whole_rows(self) -> Iterator[NDArray[np.uint8]]:
        """Records of all rows that can be cut; what is left begins with the last label."""
        stride = self.config.seq_len
        if len(self._tokens) <= stride:
            return
        tokens = np.lib.stride_tricks.sliding_window_view(self._tokens, stride + 1)[::stride]
        starts = self._starts[: len(tokens) * stride].reshape(-1, stride)
        step = rows_per_block(self.layout.record_bytes)
        for first in range(0, len(tokens), step):
            records = self.layout.join(tokens[first : first + step], starts[first : first + step])
            self.counts.record_hash = (self.counts.record_hash + record_hash(records)) % HASH_MODULUS
            yield records
        self.counts.rows += len(tokens)
        done = len(tokens) * stride
        self._tokens, self._starts = self._tokens[done:].copy(), self._starts[done:].copy()

    def _checked(self, document: ArrayLike) -> NDArray:
        number = self.counts.documents
        if isinstance(document, np.ma.MaskedArray):
            raise ValueError(
                f"document {number} is a masked array: it would be packed with the values that are masked; "
                "pass what is to be packed, for instance its compressed()"
            )
        ids = np.asarray(document)
        if ids.ndim != 1:
            raise ValueError(f"document {number} has shape {ids.shape}: token ids must be a 1-D array")
        if len(ids) and not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"document {number} has dtype {ids.dtype}: token ids must be integers")
        if len(ids) and (ids.min() < 0 or ids.max() >= self.config.vocab_size):
            place = int(np.argmax((ids < 0) | (ids >= self.config.vocab_size)))
            raise ValueError(
                f"document {number}, token {place}: id {ids[place]} is outside the vocabulary "
                f"0…{self.config.vocab_size - 1}; was it tokenized with another tokenizer?"
            )
        self.counts.documents += 1
        self.counts.document_tokens += len(ids)
        return ids

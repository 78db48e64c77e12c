"""The synthetic rows of tokens that `benchmarks/loading.py` reads, made in bounded memory.

A stream of little-endian u16 ids in one file, `tokens.u16`. Row i is its tokens i × 2048 … i × 2048 + 2048:
rows of 2049 tokens that overlap by one, as `pack_documents` cuts them. Every row is one document of 2047
tokens and an end-of-text token, so that all tools hold the same rows.

- Ids follow Zipf's law (the n-th most frequent id has a share of 1/n), so that zstd finds about as much to
  compress as in real tokens.
- The first two ids of a row are its number, so that what a tool delivers can be counted and put in order.
- The rows lie sorted by domain, eight of the same size, as a corpus does that is written domain by domain.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEQ_LEN = 2048
ROW_TOKENS = SEQ_LEN + 1
VOCABULARY = 65_536
EOS = 0
DOMAINS = 8
STREAM_FILE = "tokens.u16"
TOKEN_TYPE = np.dtype("<u2")
ROWS_AT_ONCE = 1024

FIRST_HIGH_WORD = 1  # 0 is the end-of-text token


def write_stream(folder: Path, rows: int, seed: int = 0) -> None:
    """Write `tokens.u16` into an existing folder."""
    random = np.random.default_rng(seed)
    with (folder / STREAM_FILE).open("wb") as file:
        for first in range(0, rows, ROWS_AT_ONCE):
            numbers = np.arange(first, min(first + ROWS_AT_ONCE, rows))
            exponents = random.random((len(numbers), SEQ_LEN), np.float32) * np.float32(
                np.log(VOCABULARY - 1)
            )
            block = np.exp(exponents).astype(TOKEN_TYPE)
            block[:, 0] = FIRST_HIGH_WORD + numbers // VOCABULARY
            block[:, 1] = numbers % VOCABULARY
            block[:, -1] = EOS
            block.tofile(file)
        np.array([EOS], TOKEN_TYPE).tofile(file)


def open_rows(folder: Path) -> NDArray[np.uint16]:
    """All rows, [rows, 2049], memory-mapped."""
    stream = np.memmap(folder / STREAM_FILE, TOKEN_TYPE, "r")
    return np.lib.stride_tricks.sliding_window_view(stream, ROW_TOKENS)[::SEQ_LEN]


def blocks(folder: Path) -> Iterator[NDArray[np.uint16]]:
    """All rows in stored order, in copies of at most 1024 rows."""
    rows = open_rows(folder)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        yield np.ascontiguousarray(rows[first : first + ROWS_AT_ONCE])


def documents(folder: Path) -> Iterator[NDArray[np.uint16]]:
    """The same as documents without end-of-text tokens."""
    for block in blocks(folder):
        yield from block[:, : SEQ_LEN - 1]


def row_numbers(tokens: NDArray) -> NDArray[np.int64]:
    """Which rows these are, from their first two tokens."""
    first, second = tokens[:, 0].astype(np.int64), tokens[:, 1].astype(np.int64)
    return (first - FIRST_HIGH_WORD) * VOCABULARY + second


def spread_of_batches(order: NDArray[np.int64], batch_rows: int = 512) -> float:
    """How far apart the domains of batches are, against an i.i.d. shuffle: 1.0 is ideal.

    The standard deviation of a domain's share in a batch, over that of batches drawn without replacement;
    the root of the mean square over the domains. Sorted rows have √512 = 22.6.

    Args:
        order: [rows] row numbers as they were delivered, every row once.
    """
    rows = len(order)
    batches = (order[: rows // batch_rows * batch_rows] * DOMAINS // rows).reshape(-1, batch_rows)
    share = 1 / DOMAINS
    expected = share * (1 - share) / batch_rows * (rows - batch_rows) / (rows - 1)
    found = [((batches == domain).mean(axis=1) - share) ** 2 for domain in range(DOMAINS)]
    return float(np.sqrt(np.mean(found) / expected))

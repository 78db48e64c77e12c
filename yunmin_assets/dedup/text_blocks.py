"""Blocks of documents over Arrow buffers, run on a pool of threads.

An Arrow string array is two buffers, bytes and offsets; a block names some rows of them and where the
results of these rows go. Nothing is copied, whatever the array's chunks, slices and offsets are. Blocks
are about one megabyte of text, so the threads stay busy to the end. Beside the results a thread needs
scratch space of up to 40 bytes per byte of the longest text in its block.
"""

import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from yunmin_assets.dedup.kernels import TEXT_CHANGED
from yunmin_assets.dedup.normalize import MALFORMED, MAYBE_NOT_NFC
from yunmin_assets.progress import Log, Progress

BLOCK_BYTES = 1 << 20

Rows = npt.NDArray[np.int64]
Statuses = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class TextBlock:
    """Some rows of one Arrow array of texts.

    data: uint8[:] and offsets: int64[:] are its buffers, `rows` int64[r] the rows to read and
    `positions` int64[r] the indices of their results.
    """

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    rows: Rows
    positions: Rows

    def composed(self, wanted: npt.NDArray[np.bool_]) -> "TextBlock":
        """The wanted rows again, as new buffers in NFC."""
        texts = [
            unicodedata.normalize(
                "NFC", self.data[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()
            )
            for row in self.rows[wanted]
        ]
        data, offsets = string_buffers(pa.array(texts, pa.large_string()))
        return TextBlock(data, offsets, np.arange(len(texts)), self.positions[wanted])


Kernel = Callable[[TextBlock, bool], Statuses]
"""Works on a block; the flag says that the texts are as close to NFC as they get."""


def run_blocks(texts: pa.ChunkedArray, positions: Rows, kernel: Kernel, log: Log) -> None:
    """Run `kernel` over all texts whose position is not negative, in parallel.

    As many threads as `NUMBA_NUM_THREADS` (default: the cores this process may use). The result does not
    depend on it: every block writes places of its own.

    Args:
        texts: what `checks.check_texts` returns.
        positions: int64[len(texts)], the index of each text's result, or −1 to leave the text out.

    Raises:
        ValueError: a text is not UTF-8, or not the one its signature was made from.
    """
    total = int(np.count_nonzero(positions >= 0))
    with (
        ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS) as pool,
        Progress(log, "documents", total) as progress,
    ):
        for block_size in pool.map(lambda block: _run(block, kernel), _blocks(texts, positions)):
            progress.advance(block_size)


def _run(block: TextBlock, kernel: Kernel) -> int:
    statuses = kernel(block, False)
    _refuse_bad_texts(block, statuses)
    not_nfc = (statuses & MAYBE_NOT_NFC) != 0
    if not_nfc.any():
        composed = block.composed(not_nfc)
        _refuse_bad_texts(composed, kernel(composed, True))
    return block.rows.size


def _refuse_bad_texts(block: TextBlock, statuses: Statuses) -> None:
    for flag, complaint in (
        (
            MALFORMED,
            "is not valid UTF-8: decode the source again with errors='replace', or drop the document",
        ),
        (TEXT_CHANGED, "is not the text its signature was made from: compute the signatures again"),
    ):
        bad = np.flatnonzero(statuses & flag)
        if bad.size:
            text = block.data[slice(*block.offsets[block.rows[bad[0]] :][:2])].tobytes()[:80]
            raise ValueError(f"the text that begins with {text!r} {complaint}")


def _blocks(texts: pa.ChunkedArray, positions: Rows) -> Iterator[TextBlock]:
    first = 0
    for chunk in texts.chunks:
        chunk_positions = positions[first : first + len(chunk)]
        first += len(chunk)
        rows = np.flatnonzero(chunk_positions >= 0)
        if not rows.size:
            continue
        data, offsets = string_buffers(chunk)
        bytes_before = np.cumsum(offsets[rows + 1] - offsets[rows]) // BLOCK_BYTES
        cuts = np.flatnonzero(np.diff(bytes_before)) + 1
        for part in np.split(rows, cuts):
            yield TextBlock(data, offsets, part, chunk_positions[part])


def string_buffers(array: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes and the offsets of a string array, as views that respect its slice."""
    wide = array.cast(pa.large_string())
    _, offsets, data = wide.buffers()
    values = np.frombuffer(data if data is not None else b"", np.uint8)
    places = np.frombuffer(offsets, np.int64)[wide.offset : wide.offset + len(wide) + 1]
    values.setflags(write=False)  # always, or the kernels are compiled once more for buffers that are not
    places.setflags(write=False)
    return values, places

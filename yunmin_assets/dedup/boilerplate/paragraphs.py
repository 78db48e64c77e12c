"""The paragraphs of texts as 64-bit hashes: Arrow buffers in, no Python string made on the way.

A paragraph is a line of a text that the comparison sees something of (`normalize`): an empty line is none,
nor is a line of dashes. Its hash is the upper half of MurmurHash3 x64 128 of the normalised paragraph; that
two different paragraphs of a domain share one is a matter of 2⁻⁶⁴ per pair and accepted.

Price: about 4 ms of one core per MB of Korean text, cutting and hashing; more if lines are very short.

The kernel is apart from `kernels` because it serves another question. Numba's disk cache notices a change
in a kernel's own file only, so those that it is compiled with are in the line below (see `kernels`).
"""

# Compiled with 24b0c72f4e28

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.compiling import kernel
from yunmin_assets.dedup.checks import check_texts
from yunmin_assets.dedup.kernels import OK, hash_text, longest_text, normalize_utf8
from yunmin_assets.dedup.normalize import MAYBE_NOT_NFC, Punctuation, normalization_table
from yunmin_assets.dedup.text_blocks import Statuses, TextBlock, run_blocks
from yunmin_assets.progress import silent

# mypy: allow-untyped-defs
# numba infers the types of the kernel; its docstring states them.

NO_PARAGRAPH = np.uint64(0)
"""In place of a hash: the comparison sees nothing of this line."""
TOO_SHORT = np.uint64(1)
"""In place of a hash: a paragraph that is too short to be told apart from chance."""
SMALLEST_HASH = np.uint64(2)
"""Paragraphs whose hash is smaller get this one."""


@dataclass(frozen=True)
class Paragraphs:
    """The lines of n texts, one after the other.

    Attributes:
        lines: large_string[l], the lines as they are, without their line ends.
        starts: int64[n + 1]; text i has the lines starts[i] : starts[i + 1], at least one.
        hashes: uint64[l], `NO_PARAGRAPH`, `TOO_SHORT` or the hash of a paragraph.
    """

    lines: pa.LargeStringArray
    starts: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]

    @cached_property
    def documents(self) -> npt.NDArray[np.int64]:
        """int64[l], the text that each line belongs to."""
        return np.repeat(np.arange(self.starts.size - 1), np.diff(self.starts))

    @cached_property
    def line_bytes(self) -> npt.NDArray[np.int64]:
        """int64[l], UTF-8 bytes of each line without its line end."""
        return pc.binary_length(self.lines).to_numpy()

    @property
    def are_hashed(self) -> npt.NDArray[np.bool_]:
        """bool[l], the lines that are paragraphs long enough to have a hash."""
        return self.hashes >= SMALLEST_HASH

    def once_per_document(self, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
        """The hashes of the wanted lines, bool[l], ascending, each once for every text that has it."""
        hashes, documents = self.hashes[wanted], self.documents[wanted]
        order = np.argsort(hashes, kind="stable")  # stable: equal hashes stay in the order of their texts
        hashes, documents = hashes[order], documents[order]
        again = (hashes[1:] == hashes[:-1]) & (documents[1:] == documents[:-1])
        return np.delete(hashes, np.flatnonzero(again) + 1)

    def at_edges(self, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool[l]: the wanted lines that only wanted ones part from the beginning or the end of their text.

        A line that is no paragraph parts nothing.
        """
        if not wanted.any():
            return wanted
        places = np.arange(wanted.size)
        parting = ~wanted & (self.hashes != NO_PARAGRAPH)
        first = np.minimum.reduceat(np.where(parting, places, wanted.size), self.starts[:-1])
        last = np.maximum.reduceat(np.where(parting, places, -1), self.starts[:-1])
        return wanted & ((places < first[self.documents]) | (places > last[self.documents]))


def split_paragraphs(
    texts: pa.Array | pa.ChunkedArray, min_characters: int, punctuation: Punctuation
) -> Paragraphs:
    """Cut texts into lines and hash what the comparison sees of each.

    Args:
        texts: string or large_string, no nulls; lines end with \\n.
        min_characters: normalised characters that a paragraph needs to get a hash.
        punctuation: what the comparison ignores.

    Raises:
        TypeError: `texts` has another type.
        ValueError: a text is null or not valid UTF-8.
    """
    wide = check_texts(texts).cast(pa.large_string()).combine_chunks()
    split = pc.split_pattern(wide, "\n")
    lines = split.flatten()
    hashes = np.empty(len(lines), np.uint64)
    table = normalization_table(punctuation)

    def hash_block(block: TextBlock, accept_any_form: bool) -> Statuses:
        return hash_lines(
            block.data, block.offsets, block.rows, block.positions, table, min_characters,
            accept_any_form, hashes,
        )  # fmt: skip

    run_blocks(pa.chunked_array([lines]), np.arange(len(lines)), hash_block, silent)
    return Paragraphs(lines, split.offsets.to_numpy().astype(np.int64), hashes)


@kernel
def hash_lines(data, offsets, rows, positions, table, min_characters, accept_any_form, hashes):
    """Write the hash of each line in `rows` at `positions`.

    Args:
        data, offsets, rows, positions, table, accept_any_form: as in `kernels.sign_texts`.
        min_characters: normalised characters that a paragraph needs to get a hash.
        hashes: uint64[n].

    Returns:
        uint32[r], the status of each line. Nothing is written for a line whose status is not `OK`.
    """
    code_points = np.empty(longest_text(offsets, rows) + 1, np.uint32)
    statuses = np.zeros(rows.size, np.uint32)
    for index in range(rows.size):
        start, end = offsets[rows[index]], offsets[rows[index] + 1]
        length, _, status = normalize_utf8(data, start, end, table, code_points)
        if accept_any_form:
            status &= ~MAYBE_NOT_NFC
        statuses[index] = status
        if status != OK:
            continue
        if length == 0:
            hashes[positions[index]] = NO_PARAGRAPH
        elif length < min_characters:
            hashes[positions[index]] = TOO_SHORT
        else:
            hashes[positions[index]] = max(hash_text(code_points, length)[0], SMALLEST_HASH)
    return statuses

"""What the comparison sees of a text: NFC, lower-case, no punctuation, white space collapsed and trimmed.

This is SlimPajama's normalisation (Cerebras, `slimpajama/preprocessing/datasets.py` and `dedup/to_hash.py`).
Lower-casing is character by character (the simple Unicode mapping): `İ` stays as it is and a final `Σ`
becomes `σ`, so that the meaning of a character never depends on its neighbours.

`normalize_text` is the readable definition. `normalization_table` holds the same rules as one table over
code points, made from the running Python's Unicode database, for the compiled kernel that reads the bytes
of an Arrow buffer (`kernels.normalize_utf8`). Unassigned code points are kept as they are. Text that may
not be in NFC is only *noticed* by the kernel (a flag in the table); `text_blocks` composes those rare texts
with `unicodedata`, so only they pay for it.
"""

import string
import sys
import unicodedata
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Punctuation = Literal["ascii", "unicode"]

CODE_POINTS_WITH_RULES = 0x30000
"""Planes 0 to 2. No code point above them has a lower case, is punctuation, white space or not NFC."""
TABLE_SIZE = 0x200000
"""Every number that four bytes of UTF-8 can spell, so a lookup needs no check."""
SURROGATES = range(0xD800, 0xE000)
HANGUL_VOWELS_AND_FINALS = range(0x1161, 0x1200)
"""Conjoining jamo that compose with the syllable before them."""

CODE_POINT_MASK = np.uint32(0x1FFFFF)
SPACE = np.uint32(0x20)
DROPPED = np.uint32(0x1FFFFF)
"""Table entry of a character that the comparison ignores: larger than any code point."""
MAYBE_NOT_NFC = np.uint32(1 << 31)
"""Table flag of a character that makes `unicodedata` look at the whole text."""
MALFORMED = np.uint32(1 << 30)
"""Table flag of a number that is no code point: the text is not UTF-8."""


def normalize_text(text: str, punctuation: Punctuation = "ascii") -> str:
    """The text that the comparison sees.

    Args:
        text: any string.
        punctuation: what is ignored: `string.punctuation`, or every Unicode P and S character.

    Example:
        >>> normalize_text("  Hello,   World! ")
        'hello world'
    """
    composed = unicodedata.normalize("NFC", text)
    kept = (_lower(character) for character in composed if not _is_ignored(character, punctuation))
    return " ".join("".join(kept).split())


@cache
def normalization_table(punctuation: Punctuation = "ascii") -> npt.NDArray[np.uint32]:
    """The rules as a read-only uint32[TABLE_SIZE].

    Entry c is the lower-cased code point, 32 for white space or `DROPPED` for what is ignored, plus the
    bit `MAYBE_NOT_NFC` if a text with c in it may not be in NFC, or `MALFORMED` if c is no code point.
    """
    table = np.arange(TABLE_SIZE, dtype=np.uint32)
    for code_point, character in _characters():
        if character.isspace():
            table[code_point] = SPACE
        elif _is_ignored(character, punctuation):
            table[code_point] = DROPPED
        else:
            table[code_point] = ord(_lower(character))
    table[_maybe_not_nfc()] |= MAYBE_NOT_NFC
    table[sys.maxunicode + 1 :] = DROPPED | MALFORMED
    table.setflags(write=False)
    return table


def _characters() -> list[tuple[int, str]]:
    return [(code, chr(code)) for code in range(CODE_POINTS_WITH_RULES) if code not in SURROGATES]


def _lower(character: str) -> str:
    lowered = character.lower()
    return lowered if len(lowered) == 1 else character


def _is_ignored(character: str, punctuation: Punctuation) -> bool:
    if punctuation == "ascii":
        return character in string.punctuation
    return unicodedata.category(character)[0] in "PS"


def _maybe_not_nfc() -> list[int]:
    """Code points whose NFC quick check (Unicode Annex 15) is not "yes", or that can be reordered."""
    found = set(HANGUL_VOWELS_AND_FINALS)
    for code_point, character in _characters():
        if unicodedata.combining(character):
            found.add(code_point)
        decomposition = unicodedata.decomposition(character)
        if not decomposition or decomposition.startswith("<"):  # "<...>": a compatibility mapping, not NFC's
            continue
        if not unicodedata.is_normalized("NFC", character):
            found.add(code_point)
        parts = decomposition.split()
        if len(parts) == 2:
            found.add(int(parts[1], 16))
    return sorted(found)

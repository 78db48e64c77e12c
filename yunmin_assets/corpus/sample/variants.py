"""Near copies of a document, as they are found in crawls: reposts, lost spaces, touched-up words.

The kinds of `VARIANT_KINDS` say how a copy was made, not how much it resembles: an edit goes on until the
exact resemblance has fallen to an aim drawn from `EDIT_AIMS`, and a dropped sentence may overshoot it.
"""

import random
import re
import unicodedata
from collections.abc import Callable, Sequence

from yunmin_assets.corpus.sample.resemblance import grams, jaccard

EDIT_AIMS = {"edit_light": (0.90, 0.99), "edit_medium": (0.80, 0.90), "edit_strong": (0.60, 0.80)}
VARIANT_KINDS = ("exact", "exact_across_domains", "unicode_form", "footer", "spacing", *EDIT_AIMS)

MOST_LOST_SPACES = 9
CONTROL_CHARACTERS = "\x07\x08\x7f\u200b"
CONTROLS_PER_DOCUMENT = 6

SENTENCE_END = re.compile(r"(?<=[.?!])\s|\n")
WORD_OR_GAP = re.compile(r"\s+|\S+")


def make_variant(kind: str, text: str, footers: Sequence[str], rng: random.Random) -> str:
    """Return a copy of `text` changed in the way that `kind`, one of `VARIANT_KINDS`, names."""
    if kind in ("exact", "exact_across_domains"):
        return text
    if kind == "unicode_form":
        return unicodedata.normalize("NFD", text)
    if kind == "footer":
        return f"{text}\n{rng.choice(footers)}"
    if kind == "spacing":
        return lose_spaces(text, rng.randint(1, MOST_LOST_SPACES), rng)
    return edit_until(text, rng.uniform(*EDIT_AIMS[kind]), rng)


def lose_spaces(text: str, count: int, rng: random.Random) -> str:
    """Remove `count` of the spaces between words."""
    spaces = [index for index, character in enumerate(text) if character == " "]
    lost = set(rng.sample(spaces, min(count, len(spaces))))
    return "".join(character for index, character in enumerate(text) if index not in lost)


def edit_until(text: str, aim: float, rng: random.Random) -> str:
    """Edit `text` step by step until its resemblance to the original is at most `aim`."""
    original = grams(text)
    edited = text
    while jaccard(original, grams(edited)) > aim:
        edit: Callable[[str, random.Random], str] = rng.choice(
            (swap_words, swap_words, change_digit, drop_sentence)
        )
        edited = edit(edited, rng)
    return edited


def swap_words(text: str, rng: random.Random) -> str:
    """Exchange two neighbouring words."""
    pieces = WORD_OR_GAP.findall(text)
    words = [index for index, piece in enumerate(pieces) if not piece.isspace()]
    place = rng.randrange(len(words) - 1)
    first, second = words[place], words[place + 1]
    pieces[first], pieces[second] = pieces[second], pieces[first]
    return "".join(pieces)


def change_digit(text: str, rng: random.Random) -> str:
    """Replace one digit by another; a text without digits has two words swapped instead."""
    digits = [index for index, character in enumerate(text) if character.isdecimal()]
    if not digits:
        return swap_words(text, rng)
    place = rng.choice(digits)
    other = rng.choice([digit for digit in "123456789" if digit != text[place]])
    return text[:place] + other + text[place + 1 :]


def drop_sentence(text: str, rng: random.Random) -> str:
    """Remove one sentence or line, unless only two are left: then swap two words."""
    ends = [0, *(found.end() for found in SENTENCE_END.finditer(text)), len(text)]
    if len(ends) <= 3:
        return swap_words(text, rng)
    place = rng.randrange(len(ends) - 1)
    return (text[: ends[place]] + text[ends[place + 1] :]).rstrip()


def add_control_characters(text: str, rng: random.Random) -> str:
    """Insert characters that nobody sees and that cleaning has to remove."""
    for _ in range(CONTROLS_PER_DOCUMENT):
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice(CONTROL_CHARACTERS) + text[place:]
    return text

"""Exact resemblance of two documents: the Jaccard similarity of their sets of character 13-grams.

Normalisation before the 13-grams: NFC, lower case, ASCII punctuation removed, white space collapsed to one
space and trimmed. A shorter text is its own single gram. This is SlimPajama's normalisation (Cerebras,
2023) and the one that `dedup` uses; here it is written as plainly as possible, because the truth of the
sample rests on it.
"""

import string
import unicodedata

GRAM_CHARACTERS = 13
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return what of a text counts for resemblance."""
    return " ".join(unicodedata.normalize("NFC", text).lower().translate(WITHOUT_PUNCTUATION).split())


def grams(text: str) -> frozenset[str]:
    """Return the set of character 13-grams of the normalised text."""
    normalised = normalise(text)
    count = max(1, len(normalised) - GRAM_CHARACTERS + 1)
    return frozenset(normalised[start : start + GRAM_CHARACTERS] for start in range(count))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return |A ∩ B| / |A ∪ B| of two sets that are not both empty."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)

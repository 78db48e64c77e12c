"""Deduplication written down in the plainest Python: strings, sets and all pairs."""

import string
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

IGNORED = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Decision:
    """What became of one document."""

    survivor: str
    jaccard: float


def normalized(text: str) -> str:
    """SlimPajama's normalisation, for texts whose lower case has the same number of characters."""
    return " ".join(unicodedata.normalize("NFC", text).lower().translate(IGNORED).split())


def shingle_set(text: str, ngram: int) -> frozenset[str]:
    """The character n-grams of a text; the whole text if it is shorter; nothing if it is empty."""
    seen = normalized(text)
    if len(seen) <= ngram:
        return frozenset([seen] if seen else [])
    return frozenset(seen[start : start + ngram] for start in range(len(seen) - ngram + 1))


def word_shingle_set(text: str, ngram: int) -> frozenset[str]:
    """The word n-grams of a text; the whole text if it has fewer words; nothing if it is empty."""
    seen = normalized(text)
    words = seen.split(" ") if seen else []
    if len(words) <= ngram:
        return frozenset([seen] if seen else [])
    return frozenset(" ".join(words[start : start + ngram]) for start in range(len(words) - ngram + 1))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """|A ∩ B| / |A ∪ B|; two empty sets are the same."""
    return len(first & second) / len(first | second) if first | second else 1.0


def by_length(documents: dict[str, str]) -> list[str]:
    """Ids in the default order of priority: longer texts first, then by id."""
    return sorted(documents, key=lambda name: (-len(unicodedata.normalize("NFC", documents[name])), name))


def anchored(
    documents: dict[str, str],
    ngram: int,
    threshold: float,
    order: Sequence[str] | None = None,
    shingles: Callable[[str, int], frozenset[str]] = shingle_set,
) -> dict[str, Decision]:
    """The greedy maximal independent set in priority order; who repeats a text shares its first one's fate."""
    sets = {name: shingles(text, ngram) for name, text in documents.items()}
    kept: list[str] = []
    decisions: dict[str, Decision] = {}
    first_with: dict[str, str] = {}
    for name in order or by_length(documents):
        first = first_with.setdefault(normalized(documents[name]), name)
        if first != name:
            decisions[name] = decisions[first]
            continue
        near = [(jaccard(sets[name], sets[other]), -kept.index(other), other) for other in kept]
        best = max((entry for entry in near if entry[0] >= threshold), default=None)
        if best is None:
            kept.append(name)
            decisions[name] = Decision(name, 1.0)
        else:
            decisions[name] = Decision(best[2], best[0])
    return decisions


def linked(documents: dict[str, str], ngram: int, is_pair: Callable[[str, str], bool]) -> dict[str, Decision]:
    """Connected components over the pairs, the best of each component survives."""
    order = by_length(documents)
    component = {name: name for name in order}
    for first, second in combinations(order, 2):
        if is_pair(first, second):
            old, new = component[second], component[first]
            component = {name: new if now == old else now for name, now in component.items()}
    sets = {name: shingle_set(text, ngram) for name, text in documents.items()}
    decisions = {}
    for name in order:
        survivor = next(other for other in order if component[other] == component[name])
        decisions[name] = Decision(survivor, jaccard(sets[name], sets[survivor]))
    return decisions

"""Where two texts differ in their words, cut out as windows that a person can compare at a glance.

- Words are what white space separates. Where two words share most of their letters (`부산시는`, `부산시가`),
  only the part that differs is marked.
- A long text is cut to windows around its differences, the same places in both texts.

Price: what both texts begin and end with is found by bisection, at the speed of comparing memory; `difflib`
then compares the words of 10,000 characters from the first difference on. Two texts of 44 MB take 30 to 70 ms,
two of 48 kB 30 ms. What differs further back is neither shown nor counted, and `Comparison.is_complete` says so.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum

COMPARED_CHARACTERS = 10_000
"""From the first difference on; 30 kB of Korean text."""
CONTEXT_WORDS = 6
"""Equal words shown before and after a difference."""
CONTEXT_CHARACTERS = 80
"""Equal text compared before and after the part that differs: room for `CONTEXT_WORDS`."""
SHOWN_WINDOWS = 4
SHORTEST_PIECE = 8
"""Less is not worth showing at the end of a window."""
SHOWN_CHARACTERS = 560
"""Of each text, shared among its windows."""

_WORD = re.compile(r"\S+")
_Span = tuple[int, int]  # from this character, to before that one
_Operation = tuple[str, int, int, int, int]  # difflib's: kind, words of the first text, words of the second


class Kind(Enum):
    """What a piece of a text is to the other text."""

    SAME = "same"
    DIFFERS = "differs"
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class Piece:
    """A stretch of a text as it stands there; empty where text is left out. No two that differ are neighbours."""

    kind: Kind
    text: str = ""


LEFT_OUT = Piece(Kind.LEFT_OUT)


@dataclass(frozen=True)
class Window:
    """The same place in both texts."""

    first: list[Piece]
    second: list[Piece]


@dataclass(frozen=True)
class Comparison:
    """Windows around the first places where two texts differ."""

    windows: list[Window]
    places: int
    """How many there are, shown or not."""
    is_complete: bool
    """False when text behind the compared part may differ too."""


def compare(first: str, second: str) -> Comparison:
    """Find the places where the words of two texts differ, and cut windows around the first of them."""
    start, first_end, second_end = _differing_part(first, second)
    is_complete = max(first_end, second_end) - start < COMPARED_CHARACTERS
    one, other = _Words.between(first, start, first_end), _Words.between(second, start, second_end)
    matcher = SequenceMatcher(None, one.strings(), other.strings())
    places = list(matcher.get_grouped_opcodes(CONTEXT_WORDS))
    if places and not is_complete:
        places = _without_the_cut(places)
    shown = places[:SHOWN_WINDOWS]
    characters = SHOWN_CHARACTERS // max(len(shown), 1)
    return Comparison([_window(one, other, place, characters) for place in shown], len(places), is_complete)


@dataclass(frozen=True)
class _Words:
    """The compared part of a text."""

    text: str
    spans: list[_Span]
    """Where each word stands."""

    @classmethod
    def between(cls, text: str, start: int, end: int) -> "_Words":
        return cls(text, [match.span() for match in _WORD.finditer(text, start, end)])

    def strings(self) -> list[str]:
        return [self.text[begin:end] for begin, end in self.spans]

    def stretch(self, first: int, last: int) -> _Span:
        """From the first of these words to before the last."""
        return (self.spans[first][0], self.spans[last - 1][1]) if first < last else (0, 0)


def _differing_part(first: str, second: str) -> tuple[int, int, int]:
    """Where to compare: from this character of both texts, to these of the first and of the second."""
    prefix, suffix = _common_ends(first, second)
    start = max(prefix - CONTEXT_CHARACTERS, 0)
    longest = start + COMPARED_CHARACTERS
    first_end, second_end = (
        min(len(text) - max(suffix - CONTEXT_CHARACTERS, 0), longest) for text in (first, second)
    )
    return start, first_end, second_end


def _common_ends(first: str, second: str) -> _Span:
    """How many characters two texts begin with alike, and how many of the rest they end with alike."""
    shorter = min(len(first), len(second))
    prefix = _bisect(shorter, lambda low, high: first[low:high] == second[low:high])
    suffix = _bisect(
        shorter - prefix,
        lambda low, high: (
            first[len(first) - high : len(first) - low] == second[len(second) - high : len(second) - low]
        ),
    )
    return prefix, suffix


def _bisect(limit: int, is_equal: Callable[[int, int], bool]) -> int:
    """The largest number up to `limit` such that all before it are equal."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_equal(low, middle) else (low, middle - 1)
    return low


def _without_the_cut(places: list[list[_Operation]]) -> list[list[_Operation]]:
    """Drop what differs at the very end only because the texts were cut at different words."""
    if places[-1][-1][0] == "equal":
        return places
    trimmed = [*places[:-1], places[-1][:-1]]
    return [place for place in trimmed if any(kind != "equal" for kind, *_ in place)] or places


def _window(one: _Words, other: _Words, place: list[_Operation], characters: int) -> Window:
    (_, one_begin, _, other_begin, _), (_, _, one_end, _, other_end) = place[0], place[-1]
    one_marks, other_marks = _marks(one, other, place)
    return Window(
        _pieces(one.text, one.stretch(one_begin, one_end), one_marks, characters),
        _pieces(other.text, other.stretch(other_begin, other_end), other_marks, characters),
    )


def _marks(one: _Words, other: _Words, place: list[_Operation]) -> tuple[list[_Span], list[_Span]]:
    """The characters of both texts that differ in a place."""
    one_marks, other_marks = [], []
    for kind, one_begin, one_end, other_begin, other_end in place:
        if kind == "replace" and one_end - one_begin == other_end - other_begin:
            one_spans, other_spans = one.spans[one_begin:one_end], other.spans[other_begin:other_end]
            for one_word, other_word in zip(one_spans, other_spans, strict=True):
                one_mark, other_mark = _differing_letters(one.text, one_word, other.text, other_word)
                one_marks.append(one_mark)
                other_marks.append(other_mark)
        elif kind != "equal":
            one_marks.append(one.stretch(one_begin, one_end))
            other_marks.append(other.stretch(other_begin, other_end))
    return one_marks, other_marks


def _differing_letters(one: str, one_word: _Span, other: str, other_word: _Span) -> tuple[_Span, _Span]:
    """The parts in which two words differ; the whole words when they share less than half of their letters."""
    words = one[slice(*one_word)], other[slice(*other_word)]
    prefix, suffix = _common_ends(*words)
    if 2 * (prefix + suffix) < max(map(len, words)):
        return one_word, other_word
    return (one_word[0] + prefix, one_word[1] - suffix), (other_word[0] + prefix, other_word[1] - suffix)


def _pieces(text: str, stretch: _Span, marks: list[_Span], characters: int) -> list[Piece]:
    """A stretch of a text in pieces, with the middle of long ones left out, up to a number of characters."""
    begin, end = stretch
    shown = [LEFT_OUT] if begin > 0 else []
    room = characters
    for piece in _cut_at_marks(text, stretch, marks):
        if room < SHORTEST_PIECE:
            return [*shown, LEFT_OUT]
        size = min(len(piece.text), characters // 2)
        if size > room:
            return [*shown, Piece(piece.kind, piece.text[:room]), LEFT_OUT]
        shown += _without_middle(piece, size)
        room -= size
    return [*shown, LEFT_OUT] if end < len(text) else shown


def _cut_at_marks(text: str, stretch: _Span, marks: list[_Span]) -> list[Piece]:
    """All of a stretch; neighbouring marked words make one piece."""
    place, end = stretch
    pieces: list[Piece] = []
    for mark_begin, mark_end in marks:
        if mark_begin == mark_end:  # what differs is in the other text only
            continue
        between = text[place:mark_begin]
        if pieces and not between.strip():
            pieces[-1] = Piece(Kind.DIFFERS, pieces[-1].text + text[place:mark_end])
        else:
            pieces += [Piece(Kind.SAME, between), Piece(Kind.DIFFERS, text[mark_begin:mark_end])]
        place = mark_end
    return [piece for piece in [*pieces, Piece(Kind.SAME, text[place:end])] if piece.text]


def _without_middle(piece: Piece, characters: int) -> list[Piece]:
    if len(piece.text) <= characters:
        return [piece]
    half = characters // 2
    return [Piece(piece.kind, piece.text[:half]), LEFT_OUT, Piece(piece.kind, piece.text[-half:])]

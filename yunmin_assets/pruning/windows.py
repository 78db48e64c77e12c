"""Long documents in overlapping windows, and windows of like length in batches.

Sorted by length, a batch of windows has little padding. Its composition is a function of the windows alone, so
scores do not depend on who computes them: matrix products may round differently for another batch shape.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a document that goes through the model at once; its first `context` targets are not counted."""

    document: int
    begin: int
    length: int
    context: int

    @property
    def counted(self) -> int:
        """Targets whose loss belongs to this window."""
        return self.length - self.context


def document_windows(document: int, targets: int, max_length: int) -> Iterator[Window]:
    """Cut a document of `targets` predictable tokens into windows that count each of them once."""
    stride = max(max_length // 2, 1)
    counted = 0
    while counted < targets:
        begin = 0 if counted == 0 else counted - (max_length - stride)
        length = min(max_length, targets - begin)
        yield Window(document, begin, length, counted - begin)
        counted = begin + length


def windows_of(targets: Sequence[int], max_length: int) -> list[Window]:
    """The windows of documents that have so many predictable tokens each."""
    return [
        window
        for document, count in enumerate(targets)
        for window in document_windows(document, count, max_length)
    ]


def batches_of(windows: Sequence[Window], token_budget: int) -> Iterator[list[Window]]:
    """Longest first, so that the batch that needs most memory comes first; ties keep their order."""
    ordered = sorted(windows, key=lambda window: -window.length)
    first = 0
    while first < len(ordered):
        rows = max(token_budget // ordered[first].length, 1)
        yield ordered[first : first + rows]
        first += rows

"""Progress of long work, written to a log at a steady pace."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Log = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0
SLOWEST_PER_SECOND = 2.0
"""Below this rate a line says how long one unit takes."""


def silent(_: str) -> None:
    """A log that keeps nothing, for callers who do not want progress."""


class Progress:
    """Counts units of work and reports done, rate and time left every ten seconds.

    Example:
        >>> lines = []
        >>> with Progress(lines.append, "documents", total=2) as progress:
        ...     progress.advance()
        ...     progress.advance()
        >>> lines[-1].startswith("2 of 2 documents")
        True
    """

    def __init__(
        self, log: Log, unit: str, total: int | None = None, *, every: float = SECONDS_BETWEEN_LINES
    ):
        self._log, self._unit, self._total, self._every = log, unit, total, every
        self._started = self._last = time.monotonic()
        self.done = 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more units; write a line when the last one is old enough."""
        self.done += amount
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._log(self._line(now, note))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            self._log(self._line(time.monotonic(), "done"))

    def _line(self, now: float, note: str) -> str:
        rate = self.done / max(now - self._started, 1e-9)
        of_total = f" of {self._total:,}" if self._total is not None else ""
        line = f"{self.done:,}{of_total} {self._unit}, {_pace(rate)}"
        if self._total is not None and rate > 0 and self.done < self._total:
            line += f", {(self._total - self.done) / rate:,.0f} s left"
        return f"{line}, {note}" if note else line


def _pace(rate: float) -> str:
    """So many per second; of slow work, how long one takes."""
    if rate >= SLOWEST_PER_SECOND:
        return f"{rate:,.0f}/s"
    return f"{1 / rate:,.1f} s each" if rate > 0 else "none yet"


def track(items: Iterable[Item], log: Log, unit: str, total: int | None = None) -> Iterator[Item]:
    """Pass `items` through and report how many went by."""
    with Progress(log, unit, total) as progress:
        for item in items:
            yield item
            progress.advance()

"""Progress of scoring: documents of all, tokens per second, time left."""

import time

from yunmin_assets.progress import Log, Progress


class ScoringProgress:
    """Reports documents and tokens; the clock starts with the first that is scored here.

    A context manager. Documents that an earlier attempt scored are taken out of the reckoning by `skip`.
    """

    def __init__(self, log: Log, documents: int) -> None:
        self._log, self._documents = log, documents
        self._tokens, self._started = 0, time.monotonic()
        self._progress: Progress | None = None

    def skip(self, documents: int) -> None:
        """Leave out documents whose scores are there already, before others are scored."""
        self._documents -= documents

    def advance(self, documents: int, tokens: int) -> None:
        """Count documents and tokens that were scored."""
        if self._progress is None:
            self._progress, self._started = (
                Progress(self._log, "documents", self._documents),
                time.monotonic(),
            )
        self._tokens += tokens
        self._progress.advance(documents, note=self._rate())

    def __enter__(self) -> "ScoringProgress":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None and self._progress is not None:
            self._log(f"{self._progress.done:,} documents scored, {self._tokens:,} tokens, {self._rate()}")

    def _rate(self) -> str:
        return f"{self._tokens / max(time.monotonic() - self._started, 1e-9):,.0f} tokens/s"

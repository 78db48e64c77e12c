"""The one Korean analyser of a process: Kiwi takes some three CPU-seconds and half a gigabyte to load."""

from functools import cache

import kiwipiepy


@cache
def kiwi() -> kiwipiepy.Kiwi:
    """Kiwi with its own model; texts come one by one, so a pool of threads would only wait."""
    return kiwipiepy.Kiwi(num_workers=1)

"""Files that are open for reading by position, not more than so many at a time.

A corpus of a terabyte has thousands of shards, and a process usually may open 1024 files.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

MOST_OPEN_FILES = 64


class OpenFile:
    """Closed when nothing refers to it any more, so never in the middle of somebody's read."""

    def __init__(self, path: Path | str, descriptor: int | None = None):
        """Open it.

        Args:
            descriptor: of the file, where it is open already; belongs to this object from now on.

        Raises:
            OSError: it cannot be opened.
        """
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY) if descriptor is None else descriptor

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):  # not when it could not be opened
            os.close(self.descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on."""
        return os.pread(self.descriptor, size, offset)


def opener(most_open: int = MOST_OPEN_FILES) -> Callable[[Path], OpenFile]:
    """A function that opens files and keeps them open until `most_open` others were asked for since."""
    return lru_cache(maxsize=most_open)(OpenFile)

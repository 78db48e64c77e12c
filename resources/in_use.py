"""Folders that a living process works in: a lock says so, and a killed process lets go of it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from resources.snapshot import MANIFEST, PointerMovedError, is_local


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Mark a staging folder as being written; remove it when writing fails.

    A folder that is whole stays, unless another was published instead: whoever is interrupted while moving the pointer
    cannot know whether it moved.
    """
    with held(folder):
        try:
            yield
        except BaseException as error:
            if isinstance(error, PointerMovedError) or not (folder / MANIFEST).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Mark a folder as being in use. A killed process lets go of it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def is_in_use(folder: UPath) -> bool:
    """Whether a living process works in a folder, however long ago it wrote last."""
    if not is_local(folder):
        return False  # what is staged is only uploaded at the end, and a mirror gives signs of life
    descriptor = os.open(folder.path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

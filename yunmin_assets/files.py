"""Files and folders: hashed, flushed, and appearing whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

HASH_BLOCK = 1 << 20


def sha256_of(path: Path | UPath) -> str:
    """SHA-256 of a file's content as hexadecimal text; one megabyte in memory at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Force a file's or a folder's content onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield `<folder>.part` to be filled; flush it to the disk and rename it to `folder` on success.

    An exception removes the part; what a killed process left behind is removed by the next attempt.

    Raises:
        FileExistsError: `folder` is a file, or a folder that already holds something.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} already holds something: choose a new folder or remove it first")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for file in sorted(part.rglob("*")):
            if file.is_file():
                flush(file)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    flush(folder.parent)


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below a folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    listing = "\n".join(f"{name} {sha256_of(folder / name)}" for name in names)
    return hashlib.sha256(listing.encode()).hexdigest()

"""Files and folders: hashed, flushed, locked, and appearing whole or not at all."""

import fcntl
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from upath import UPath

HASH_BLOCK = 1 << 20


class MissingInputError(ValueError, FileNotFoundError):
    """A file or folder that somebody has to give is not there; as with all bad input, no retry would help."""


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


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears under its name when it is whole and on the disk."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    flush(part)
    part.rename(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file alone, and remove it afterwards. A killed process lets go of it.

    Raises:
        RuntimeError: another process holds it; the message says which.
    """
    with _lock_file(path) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock_file(path: Path) -> TextIO:
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read() or "another process"
            file.close()
            raise RuntimeError(f"{owner} holds {path}: wait until it is done") from error
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()  # who held it before has removed it meanwhile


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield `<folder>.part` to be filled; flush it to the disk and rename it to `folder` on success.

    An exception removes the part; what a killed process left behind is removed by the next attempt.

    Raises:
        FileExistsError: `folder` is a file, or a folder that already holds something.
        RuntimeError: another process is filling it.
    """
    part = folder.with_name(f"{folder.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with locked(part.with_name(f"{part.name}.lock")):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise FileExistsError(f"{folder} already holds something: choose a new folder or remove it first")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
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

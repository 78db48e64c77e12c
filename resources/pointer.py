"""The pointer of an asset: a small file that names its current snapshot, moved by one writer at a time.

Who moves it says what it was when they began. On S3 the store compares (a conditional PUT, by ETag), on a local disk
a lock on the folder does. So of two writers that began with the same snapshot exactly one wins, and the other is told.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from resources.snapshot import is_local
from yunmin_assets.files import flush

POINTER = "current.json"

LOST = {"PreconditionFailed", "NoSuchKey"}
"""What S3 answers to a conditional PUT that came too late: another object, or none, is there."""

CONFLICT = "ConditionalRequestConflict"
"""What S3 answers while another write of the same object is under way: nobody has won yet, ask again."""
CONFLICT_ATTEMPTS = 5
CONFLICT_SECONDS = 0.5
"""Between two attempts."""


def pointer_tag(pointer: UPath) -> str | None:
    """What a pointer is now, to be compared when it is moved: its ETag or content; None when there is none."""
    try:
        if is_local(pointer):
            return Path(pointer.path).read_text(encoding="utf-8")
        return str(pointer.fs.info(pointer.path)["ETag"])
    except FileNotFoundError:
        return None


def move_pointer(pointer: UPath, content: bytes, expected: str | None) -> bool:
    """Replace a pointer in one atomic step, unless somebody else moved it.

    Args:
        pointer: its file.
        content: the new one. Of two writers that put the same content (two rollbacks to one version) both win.
        expected: what `pointer_tag` gave before.

    Returns:
        Whether it was moved.
    """
    if not is_local(pointer):
        return _put_if(pointer, content, expected)
    with _alone_in(Path(pointer.path).parent):
        if pointer_tag(pointer) != expected:
            return False
        write_whole(pointer, content)
    return True


def write_whole(path: UPath, content: bytes) -> None:
    """Write a file so that a reader sees all of it or the one before: an object PUT, or write and rename."""
    if not is_local(path):
        path.fs.pipe_file(path.path, content)
        return
    target = Path(path.path)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, target)
    flush(target.parent)


def read_whole(path: UPath) -> bytes:
    """Read a small file in one request: an open S3 file fails when its object is replaced while it is read."""
    return Path(path.path).read_bytes() if is_local(path) else bytes(path.fs.cat_file(path.path))


def _put_if(pointer: UPath, content: bytes, expected: str | None, attempts: int = CONFLICT_ATTEMPTS) -> bool:
    condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
    try:
        pointer.fs.pipe_file(pointer.path, content, **condition)
    except OSError as error:
        if _code(error) == CONFLICT and attempts > 1:
            time.sleep(CONFLICT_SECONDS)
            return _put_if(pointer, content, expected, attempts - 1)
        if _code(error) not in LOST:
            raise
        # An answer may be lost on its way; the client then asks again, and it is our own pointer that is there.
        return _content(pointer) == content
    return True


def _content(pointer: UPath) -> bytes | None:
    try:
        return read_whole(pointer)
    except FileNotFoundError:
        return None


def _code(error: OSError) -> str:
    answer: dict[str, Any] = getattr(error.__cause__, "response", {})
    return str(answer.get("Error", {}).get("Code", ""))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

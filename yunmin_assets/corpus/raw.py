"""Raw objects: what they hold, and whether they are still the same.

Raw text is never copied. `inspect_object` reads an object of a listing once, counts its lines and pins its content
by SHA-256; `read_lines` refuses an object that is no longer that content.
"""

import codecs
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from yunmin_assets.corpus.listing import ListedObject, ObjectInMotionError, RawObjectError, look_again
from yunmin_assets.documents import ROW_GROUP_DOCUMENTS
from yunmin_assets.parquet_batches import batches_of

_BLOCK = 1 << 20


@dataclass(frozen=True)
class RawObject:
    """One raw object as it was seen."""

    name: str
    """Path below the raw root."""
    uri: str
    bytes: int
    lines: int
    sha256: str
    modified: str
    etag: str | None = None


def inspect_object(root: UPath, listed: ListedObject) -> RawObject:
    """Read an object once: lines and SHA-256.

    Args:
        root: the raw root.
        listed: the object as a listing showed it.

    Raises:
        RawObjectError: the object is truncated or is not what its name says.
        ObjectInMotionError: it was written or removed since it was listed.
    """
    content = hashlib.sha256()
    try:
        lines = sum(1 for _ in _records(root / listed.name, listed.name, content))
    except (OSError, RawObjectError):
        _require_unchanged(root, listed)  # the cause, where somebody wrote the object while it was read
        raise
    _require_unchanged(root, listed)
    return RawObject(
        name=listed.name,
        uri=str(root / listed.name),
        bytes=listed.bytes,
        lines=lines,
        sha256=content.hexdigest(),
        modified=listed.modified_text,
        etag=listed.etag,
    )


def _require_unchanged(root: UPath, listed: ListedObject) -> None:
    now = look_again(root, listed.name)
    if now is None or now.stamp != listed.stamp:
        what = "removed" if now is None else "written again"
        raise ObjectInMotionError(
            f"{root / listed.name} was {what} while raw_corpus read it: materialize raw_corpus once it is at rest"
        )


def read_lines(root: UPath, raw_object: RawObject) -> Iterator[tuple[int, bytes | dict[str, Any]]]:
    """Yield (line number from 1, JSON line as bytes or Parquet row as a dict) of an object seen before.

    Raises:
        RawObjectError: the object was changed or removed since it was inspected.
    """
    path = root / raw_object.name
    content = hashlib.sha256()
    try:
        yield from _records(path, raw_object.name, content)
    except (OSError, RawObjectError) as error:
        now = look_again(root, raw_object.name)
        if now is None:
            raise RawObjectError(
                f"{path} is gone since raw_corpus saw it: materialize raw_corpus again"
            ) from error
        if (now.bytes, now.etag) == (raw_object.bytes, raw_object.etag):
            raise
    if content.hexdigest() != raw_object.sha256:
        raise RawObjectError(f"{path} changed since raw_corpus saw it: materialize raw_corpus again")


def content_of(objects: list[tuple[str, str]]) -> str:
    """Hash of a domain's content: the names and SHA-256 of its objects, sorted by name."""
    return hashlib.sha256(json.dumps(sorted(objects)).encode()).hexdigest()


class _HashingReader(io.RawIOBase):
    """Passes bytes through and hashes them, so that content is pinned without a second read."""

    def __init__(self, file: BinaryIO, content: "hashlib._Hash") -> None:
        self._file, self._content = file, content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer))
        buffer[: len(block)] = block
        self._content.update(block)
        return len(block)


def _records(
    path: UPath, name: str, content: "hashlib._Hash"
) -> Iterator[tuple[int, bytes | dict[str, Any]]]:
    with path.open("rb") as file:
        reader = _HashingReader(file, content)
        if name.endswith(".parquet"):
            while reader.read(_BLOCK):
                pass
            yield from _parquet_rows(path, name)
        else:
            yield from _json_lines(reader, name)


def _parquet_rows(path: UPath, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    with path.open("rb") as file:
        try:
            with pq.ParquetFile(file) as parquet:
                for batch in batches_of(parquet, ROW_GROUP_DOCUMENTS):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            _require_damage(error)
            raise RawObjectError(
                f"{name}, after row {number}: not a whole Parquet file ({error}); upload it again"
            ) from error


def _json_lines(reader: _HashingReader, name: str) -> Iterator[tuple[int, bytes]]:
    """Lines that hold more than white space, with their number in the file."""
    number = 0
    try:
        for number, line in enumerate(_lines(_decompressed(reader, name)), start=1):
            if line.strip():
                yield number, line
    except (EOFError, OSError, zlib.error, pa.ArrowInvalid) as error:
        _require_damage(error)
        raise RawObjectError(
            f"{name}, after line {number}: the compressed data is truncated or damaged ({error}); upload it again"
        ) from error
    while reader.read(_BLOCK):  # bytes behind the end of the compressed data belong to the content too
        pass


def _require_damage(error: Exception) -> None:
    """Raise an error again that comes from the store or the operating system and not from what an object holds.

    Those have a number or a class of their own (`TimeoutError`); pyarrow's about content are plain and without one.
    """
    is_pyarrows = type(error) is OSError and error.errno is None
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile) and not is_pyarrows:
        raise error


def _decompressed(reader: _HashingReader, name: str) -> Any:
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=io.BufferedReader(reader, _BLOCK))
    if name.endswith(".zst"):
        return pa.CompressedInputStream(pa.PythonFile(reader, mode="r"), "zstd")
    return reader


def _lines(stream: Any) -> Iterator[bytes]:
    rest: list[bytes] = []
    while block := stream.read(_BLOCK):
        *whole, last = block.split(b"\n")
        if whole:
            rest.append(whole[0])
            yield b"".join(rest)
            yield from whole[1:]
            rest = []
        rest.append(last)
    if final := b"".join(rest):
        yield final


def parse_line(line: bytes | dict[str, Any]) -> dict[str, Any]:
    """The record on a line.

    Raises:
        ValueError: with the reason why it cannot be a document.
    """
    if isinstance(line, dict):
        record = line
    else:
        try:
            record = orjson.loads(line.removeprefix(codecs.BOM_UTF8))
        except orjson.JSONDecodeError as error:
            raise ValueError(_json_reason(line, error)) from error
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object but {type(record).__name__}")
    if "text" not in record:
        raise ValueError("missing field: text")
    if not isinstance(record["text"], str):
        raise ValueError(f"text is not a string but {type(record['text']).__name__}")
    return record


def _json_reason(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as invalid:
        return f"invalid UTF-8 at byte {invalid.start}"
    return f"broken JSON: {error.msg} at character {error.pos}"

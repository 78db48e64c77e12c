"""Which raw objects there are: one sorted, resumable listing for local folders and S3.

    <root>/<domain>.jsonl[.gz|.zst]   <root>/<domain>.parquet   <root>/<domain>/<any depth>/…

Names come in the order of their UTF-8 bytes, as S3 lists them, so a listing can stop after any name and go on
there later. All objects of a domain lie together in it: `.` and `/` are neighbours in that order, and a domain's
name holds no `.`. Names with a part that begins with `.` or `_`, or ends in `.part` or `.tmp`, are not data, and
neither are the empty objects that mark folders on S3.

Price on S3: one request per 1,000 objects and none per object.
"""

import contextlib
import datetime as dt
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upath import UPath

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
NO_OBJECTS = ""
"""The digest of a domain without objects."""


class RawObjectError(ValueError):
    """A raw object cannot be read as a whole; the message names it, the place and the cure."""


class ObjectInMotionError(RuntimeError):
    """A raw object was written or removed while it was read: the same again succeeds once it is at rest."""


@dataclass(frozen=True)
class ListedObject:
    """One object as a listing shows it; nothing of it has been read."""

    name: str
    """Path below the raw root, with forward slashes."""
    bytes: int
    stamp: str
    """Changes whenever the content does: the ETag on S3, size and time of the last write of a local file."""
    modified: float
    """Seconds since the epoch."""
    etag: str | None = None

    @property
    def modified_text(self) -> str:
        """The time of the last write for people, UTC."""
        return dt.datetime.fromtimestamp(self.modified, dt.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Listing:
    """The objects of one domain, by name, and the names of files beside them that are not read."""

    objects: tuple[ListedObject, ...]
    unread: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What tells two listings of a domain apart; see `extended`."""
        digest = NO_OBJECTS
        for item in self.objects:
            digest = extended(digest, item)
        return digest


def list_objects(root: UPath, *, after: str = "", prefix: str = "") -> Iterator[ListedObject]:
    """Every object below `root`, sorted by name, whether or not it is data.

    Args:
        root: a local folder or an S3 prefix.
        after: only names behind this one.
        prefix: only names that begin with it.

    Raises:
        RawObjectError: `root`, or its bucket, does not exist.
    """
    return _local_objects(root, after, prefix) if _is_local(root) else _s3_objects(root, after, prefix)


def list_domain(root: UPath, domain: str) -> Listing:
    """The objects of one domain; of other domains nothing is listed.

    Raises:
        RawObjectError: `root` does not exist.
    """
    found = (item for mark in "./" for item in list_objects(root, prefix=f"{domain}{mark}"))
    return _as_listing(item for item in found if domain_of(item.name) == domain)


def list_domains(root: UPath) -> dict[str, Listing]:
    """Every domain below `root` that has an object, sorted by name.

    Raises:
        RawObjectError: `root` does not exist.
    """
    members: dict[str, list[ListedObject]] = {}
    for item in list_objects(root):
        domain = domain_of(item.name)
        if domain is not None:
            members.setdefault(domain, []).append(item)
    listings = {domain: _as_listing(items) for domain, items in sorted(members.items())}
    return {domain: listing for domain, listing in listings.items() if listing.objects}


def look_again(root: UPath, name: str) -> ListedObject | None:
    """One object as it is now, or None when it is gone."""
    path = root / name
    try:
        if _is_local(root):
            return _local_object(name, os.stat(path.path))
        info = path.fs.info(path.path)
    except FileNotFoundError:
        return None
    return _s3_object(name, info["size"], info["ETag"], info["LastModified"])


def domain_of(name: str) -> str | None:
    """The domain an object belongs to: its topmost folder, or its name up to the suffix; None for what is no data."""
    if _is_hidden(name):
        return None
    folder, slash, _ = name.partition("/")
    return folder if slash else _without_suffix(name)


def is_readable(name: str) -> bool:
    """Whether an object's name says that it holds documents."""
    return _without_suffix(name) is not None and "" not in name.split("/")


def _is_hidden(name: str) -> bool:
    """Whether an object is no data: unfinished, private, or the mark of a folder."""
    parts = name.split("/")
    return parts[-1] == "" or any(
        part.startswith((".", "_")) or part.endswith((".part", ".tmp")) for part in parts
    )


def extended(digest: str, item: ListedObject) -> str:
    """The digest of a listing with one more object, so that a listing may be taken in pieces of any size.

    Args:
        digest: of the objects before it, `NO_OBJECTS` for the first.
        item: the next object in the order of names.
    """
    return hashlib.sha256(f"{digest}\n{item.name}\n{item.stamp}".encode()).hexdigest()


def _as_listing(items: Iterable[ListedObject]) -> Listing:
    objects, unread = list[ListedObject](), list[str]()
    for item in items:
        if is_readable(item.name):
            objects.append(item)
        else:
            unread.append(item.name)
    return Listing(tuple(objects), tuple(unread))


def _without_suffix(name: str) -> str | None:
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return None


def _is_local(root: UPath) -> bool:
    return root.protocol in ("", "file", "local")


def _local_objects(root: UPath, after: str, prefix: str) -> Iterator[ListedObject]:
    if not os.path.isdir(root.path):
        raise RawObjectError(
            f"{root} does not exist: create it and drop <domain>.jsonl files into it, or set YUNMIN_RAW"
        )
    return _walk(Path(root.path), "", after, prefix)


def _walk(folder: Path, below: str, after: str, prefix: str) -> Iterator[ListedObject]:
    """Files below a folder in the order in which S3 would list them; what vanishes meanwhile is left out."""
    entries = _entries(folder, below)
    for name in sorted(entries):
        if name.endswith("/"):
            may_match = name.startswith(prefix) or prefix.startswith(name)
            if may_match and (name > after or after.startswith(name)):
                yield from _walk(Path(entries[name].path), name, after, prefix)
        elif name.startswith(prefix) and name > after:
            with contextlib.suppress(FileNotFoundError):
                yield _local_object(name, entries[name].stat())


def _entries(folder: Path, below: str) -> dict[str, "os.DirEntry[str]"]:
    """What lies in a folder by its name below the root; folders end in a slash, which puts them in S3's order."""
    try:
        with os.scandir(folder) as entries:
            return {f"{below}{_as_utf8(entry.name)}{'/' * entry.is_dir()}": entry for entry in entries}
    except FileNotFoundError:
        return {}


def _as_utf8(name: str) -> str:
    """A file name as text; bytes that are no UTF-8 become marks, and reading the file then says that it is gone."""
    return os.fsencode(name).decode("utf-8", "replace")


def _local_object(name: str, status: os.stat_result) -> ListedObject:
    return ListedObject(name, status.st_size, f"{status.st_size}:{status.st_mtime_ns}", status.st_mtime)


def _s3_objects(root: UPath, after: str, prefix: str) -> Iterator[ListedObject]:
    bucket, _, key = root.path.partition("/")
    below = f"{key.rstrip('/')}/" if key else ""
    place = {"StartAfter": below + after}
    while True:
        try:
            page = root.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=below + prefix, **place)
        except FileNotFoundError as error:
            raise RawObjectError(
                f"the bucket of {root} does not exist: create it, or set YUNMIN_RAW"
            ) from error
        for item in page.get("Contents", ()):
            name = item["Key"][len(below) :]
            yield _s3_object(name, item["Size"], item["ETag"], item["LastModified"])
        if not page["IsTruncated"]:
            return
        # By its token and not behind its last object: a page may hold none and still not be the last.
        place = {"ContinuationToken": page["NextContinuationToken"]}


def _s3_object(name: str, size: int, etag: str, modified: Any) -> ListedObject:
    return ListedObject(name, size, etag, modified.timestamp(), etag)

"""The lake: immutable snapshots behind one atomic pointer.

    <uri>/<asset>/<domain>/<version>/…files…        written once, never changed
    <uri>/<asset>/<domain>/<version>/manifest.json  written last; a folder without one is garbage
    <uri>/<asset>/<domain>/current.json             the pointer, replaced in one atomic step

A reader follows the pointer and therefore sees the old snapshot or the new one, never half of one.
A publisher that dies leaves a folder that nothing points to: `garbage()` lists it, `collect()` removes
it. Of two publishers at once both write whole snapshots and the later pointer wins. Unpartitioned
assets use the domain folder `_global`, which no domain name can equal.

Price: every published file is read once more for its SHA-256, and is flushed to the disk.
"""

import contextlib
import datetime as dt
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource
from upath import UPath

from resources.snapshot import (
    Cost,
    FileEntry,
    LakeError,
    Manifest,
    Snapshot,
    content_hash_of,
    describe_files,
    is_local,
)
from yunmin_assets.files import flush

MANIFEST = "manifest.json"
POINTER = "current.json"
GLOBAL = "_global"
WORK = "_work"
DAY = 24 * 3600.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class Staging:
    """A snapshot that is being written; nobody sees it before `Lake.commit`."""

    def __init__(self, target: UPath, folder: Path) -> None:
        self.target = target
        self.folder = folder


class Lake(ConfigurableResource):
    """Where every asset publishes its snapshots: a local folder or an `s3://bucket/prefix`."""

    uri: str
    endpoint_url: str | None = None
    """Endpoint of an S3-compatible store; credentials come from the environment only."""
    cache: str = "~/.cache/yunmin_efficientdata"
    """Where remote snapshots are fetched to."""

    def current(self, asset: str, domain: str | None = None) -> Snapshot:
        """The snapshot that the pointer names.

        Raises:
            LakeError: nothing has been published yet, or the pointer leads nowhere.
        """
        snapshot = self.find(asset, domain)
        if snapshot is None:
            name = f"{asset}[{domain}]" if domain else asset
            raise LakeError(f"{name} has no snapshot in {self.uri}: materialize it first")
        return snapshot

    def find(self, asset: str, domain: str | None = None) -> Snapshot | None:
        """The current snapshot, or None when nothing has been published yet."""
        home = self._home(asset, domain)
        try:
            pointer = _read_whole(home / POINTER)
        except FileNotFoundError:
            return None
        return self.open(asset, domain, json.loads(pointer)["version"])

    def open(self, asset: str, domain: str | None, version: str) -> Snapshot:
        """A snapshot by its version, current or not."""
        folder = self._home(asset, domain) / version
        try:
            manifest = Manifest.model_validate_json(_read_whole(folder / MANIFEST))
        except FileNotFoundError as error:
            raise LakeError(f"{folder / MANIFEST} is missing: materialize {asset} again") from error
        return Snapshot(folder, manifest, Path(self.cache).expanduser())

    def versions(self, asset: str, domain: str | None = None) -> list[str]:
        """Whole snapshots of an asset, oldest first."""
        return [
            folder.name for folder in self._folders(self._home(asset, domain)) if (folder / MANIFEST).exists()
        ]

    def assets(self) -> list[str]:
        """Assets of which anything was ever staged, sorted."""
        return [folder.name for folder in self._folders(self._root) if folder.name != WORK]

    def domains(self, asset: str) -> list[str]:
        """Domains for which `asset` has a current snapshot, sorted."""
        homes = self._folders(self._root / asset)
        return sorted(home.name for home in homes if home.name != GLOBAL and (home / POINTER).exists())

    @contextlib.contextmanager
    def stage(self, asset: str, domain: str | None = None) -> Iterator[Staging]:
        """Open a new folder to write a snapshot into; it becomes visible only through `commit`."""
        now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S%f")
        target = self._home(asset, domain) / f"{now}-{uuid.uuid4().hex[:8]}"
        if is_local(target):
            target.mkdir(parents=True)
            with _in_use(Path(target.path)):
                yield Staging(target, Path(target.path))
        else:
            with tempfile.TemporaryDirectory(prefix="yunmin-stage-") as folder:
                yield Staging(target, Path(folder))

    def commit(
        self,
        staging: Staging,
        *,
        asset: str,
        domain: str | None,
        fingerprint: str,
        code_version: str = "",
        inputs: Mapping[str, str] | None = None,
        cost: Cost | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> Snapshot:
        """Publish what was staged: files, then the manifest, then the pointer.

        Raises:
            LakeError: nothing was written into the staging folder.
        """
        files = describe_files(staging.folder)
        if not files:
            raise LakeError(f"{asset} wrote no file: there is nothing to publish")
        cost = (cost or Cost()).model_copy(update={"bytes_out": sum(file.bytes for file in files)})
        manifest = Manifest(
            asset=asset,
            domain=domain,
            version=staging.target.name,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            content_hash=content_hash_of(files),
            fingerprint=fingerprint,
            code_version=code_version,
            inputs=dict(inputs or {}),
            files=files,
            cost=cost,
            summary=dict(summary or {}),
        )
        self._upload(staging, files)
        _write_whole(staging.target / MANIFEST, manifest.model_dump_json(indent=1).encode())
        pointer = json.dumps({"version": manifest.version}).encode()
        _write_whole(self._home(asset, domain) / POINTER, pointer)
        return Snapshot(staging.target, manifest, Path(self.cache).expanduser())

    def workspace(self, asset: str, domain: str | None, fingerprint: str) -> Path:
        """A local folder that survives a killed run: checkpoints go here, keyed by what is computed."""
        root = Path(self._root.path) if is_local(self._root) else Path(self.cache).expanduser()
        folder = root / WORK / _checked(asset) / _domain_folder(domain) / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_workspaces(self, asset: str, domain: str | None) -> None:
        """Remove the checkpoints of an asset once its snapshot is published."""
        root = Path(self._root.path) if is_local(self._root) else Path(self.cache).expanduser()
        shutil.rmtree(root / WORK / _checked(asset) / _domain_folder(domain), ignore_errors=True)

    def garbage(self, *, older_than: float = DAY) -> list[UPath]:
        """Folders and temporary files that publishers left behind when they died.

        Args:
            older_than: seconds of rest after which a folder counts as abandoned, so that one which
                is being written now is left alone.
        """
        before = time.time() - older_than
        homes = [home for asset in self.assets() for home in self._folders(self._root / asset)]
        found = [
            folder
            for home in homes
            for folder in self._folders(home)
            if not (folder / MANIFEST).exists() and _last_change(folder) < before and not _is_in_use(folder)
        ]
        for home in homes:
            for path in home.iterdir():
                if path.name.startswith(f".{POINTER}") and _last_change(path) < before:
                    found.append(path)
        return sorted(found, key=str)

    def superseded(self, *, keep: int = 1) -> list[UPath]:
        """Whole snapshots that are neither current nor among the `keep` newest of the others."""
        found = []
        for asset in self.assets():
            for home in self._folders(self._root / asset):
                domain = None if home.name == GLOBAL else home.name
                current = self.find(asset, domain)
                name = current.manifest.version if current else ""
                older = [version for version in self.versions(asset, domain) if version != name]
                found += [home / version for version in older[: len(older) - keep if keep else None]]
        return sorted(found, key=str)

    def collect(self, *, older_than: float = DAY, keep: int | None = None) -> list[UPath]:
        """Remove garbage and, when `keep` is given, superseded snapshots; return what was removed."""
        removed = self.garbage(older_than=older_than)
        if keep is not None:
            before = time.time() - older_than
            removed = removed + [path for path in self.superseded(keep=keep) if _last_change(path) < before]
        for path in removed:
            path.fs.rm(path.path, recursive=True)
        return removed

    @cached_property
    def _root(self) -> UPath:
        return open_uri(self.uri, self.endpoint_url)

    def _home(self, asset: str, domain: str | None) -> UPath:
        return self._root / _checked(asset) / _domain_folder(domain)

    @staticmethod
    def _folders(parent: UPath) -> list[UPath]:
        if not parent.exists():
            return []
        return sorted((path for path in parent.iterdir() if path.is_dir()), key=lambda path: path.name)

    @staticmethod
    def _upload(staging: Staging, files: list[FileEntry]) -> None:
        if is_local(staging.target):
            for folder, _, names in os.walk(staging.folder):
                for name in names:
                    flush(Path(folder) / name)
                flush(Path(folder))
            return
        for file in files:
            staging.target.fs.put_file(str(staging.folder / file.name), (staging.target / file.name).path)


def open_uri(uri: str, endpoint_url: str | None = None) -> UPath:
    """A local folder (made absolute) or an `s3://bucket/prefix` as a path object."""
    if uri.startswith("s3://"):
        options: dict[str, Any] = {"use_listings_cache": False}
        if endpoint_url:
            options["client_kwargs"] = {"endpoint_url": endpoint_url}
        return UPath(uri, **options)
    if "://" in uri:
        raise ValueError(f"{uri}: only local folders and s3:// are supported")
    return UPath(Path(uri).expanduser().absolute())


def check_domain(domain: str) -> str:
    """Return a domain name that is safe as a folder, an S3 key and a partition key.

    Raises:
        ValueError: it holds anything but ASCII letters, digits, `_` and `-`, or does not start with a
            letter or digit.
    """
    if not _NAME.fullmatch(domain):
        raise ValueError(
            f"{domain!r} cannot be a domain: use ASCII letters, digits, '_' and '-', a letter or digit first"
        )
    return domain


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be an asset name in the lake")
    return name


def _domain_folder(domain: str | None) -> str:
    return GLOBAL if domain is None else check_domain(domain)


@contextlib.contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Mark a staging folder as being written; remove it when writing fails. A killed process lets go of it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def _is_in_use(folder: UPath) -> bool:
    """Whether a living process is writing a staging folder, however long ago it wrote last."""
    if not is_local(folder):
        return False  # a remote folder is staged locally and only uploaded at the end
    descriptor = os.open(folder.path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read_whole(path: UPath) -> bytes:
    """Read a small file in one request: an open S3 file fails when its object is replaced while it is read."""
    return Path(path.path).read_bytes() if is_local(path) else bytes(path.fs.cat_file(path.path))


def _write_whole(path: UPath, content: bytes) -> None:
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


def _last_change(path: UPath) -> float:
    """Seconds since the epoch of the newest file in a folder (of the folder itself when it is empty)."""
    times = [_modified(child) for child in path.rglob("*") if child.is_file()] if path.is_dir() else []
    return max([*times, _modified(path)])


def _modified(path: UPath) -> float:
    if is_local(path):
        return Path(path.path).stat().st_mtime
    modified = path.fs.info(path.path).get("LastModified")  # absent for S3 "folders"
    return modified.timestamp() if modified else 0.0

"""The lake: immutable snapshots behind one atomic pointer.

    <uri>/<asset>/<domain>/<version>/…files…        written once, never changed
    <uri>/<asset>/<domain>/<version>/manifest.json  written last; a folder without one is garbage
    <uri>/<asset>/<domain>/current.json             the pointer, replaced in one atomic step

A reader follows the pointer and therefore sees the old snapshot or the new one, never half of one.
A publisher that dies leaves a folder that nothing points to: `garbage()` lists it, `collect()` removes
it. Of two publishers at once exactly one moves the pointer, and the other is told (`PointerMovedError`).
Unpartitioned assets use the domain folder `_global`, which no domain name can equal.

    <uri>/_work/<asset>/<domain>/<fingerprint>/…    checkpoints of what is being computed

Price: every published file is read once more for its SHA-256, and is flushed to the disk.
"""

import contextlib
import datetime as dt
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource
from upath import UPath

from resources.given_files import GIVEN, fetch_given
from resources.in_use import held, is_in_use, removed_on_failure
from resources.pointer import POINTER, move_pointer, pointer_tag, read_whole, write_whole
from resources.remote_workspace import ATTEMPT, mirrored_folder
from resources.snapshot import (
    FETCHING,
    MANIFEST,
    BrokenPointerError,
    Cost,
    FileEntry,
    LakeError,
    Manifest,
    PointerMovedError,
    Snapshot,
    content_hash_of,
    describe_files,
    is_local,
)
from yunmin_assets.config_model import Location
from yunmin_assets.files import flush

GLOBAL = "_global"
WORK = "_work"
DAY = 24 * 3600.0

S3_CLIENT: dict[str, Any] = {
    "connect_timeout": 10,  # seconds; a store that is there answers in a fraction of one
    "read_timeout": 60,  # seconds without a byte
    "retries": {
        "mode": "standard",
        "total_max_attempts": 8,
    },  # with backoff: about a minute of 503 is survived
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class Staging:
    """A snapshot that is being written; nobody sees it before `Lake.commit`."""

    target: UPath
    folder: Path
    pointer: str | None
    """What the pointer was when staging began."""


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
            pointer = read_whole(home / POINTER)
        except FileNotFoundError:
            return None
        return self.open(asset, domain, json.loads(pointer)["version"])

    def find_to_replace(self, asset: str, domain: str | None = None) -> Snapshot | None:
        """The current snapshot for whoever publishes the next one: None as well when the pointer leads nowhere."""
        with contextlib.suppress(BrokenPointerError):
            return self.find(asset, domain)
        return None

    def open(self, asset: str, domain: str | None, version: str) -> Snapshot:
        """A snapshot by its version, current or not."""
        folder = self._home(asset, domain) / version
        try:
            manifest = Manifest.model_validate_json(read_whole(folder / MANIFEST))
        except FileNotFoundError as error:
            missing = f"{folder / MANIFEST} is missing: materialize {asset} again"
            raise BrokenPointerError(missing) from error
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
        pointer = pointer_tag(self._home(asset, domain) / POINTER)
        now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S%f")
        target = self._home(asset, domain) / f"{now}-{uuid.uuid4().hex[:8]}"
        if is_local(target):
            target.mkdir(parents=True)
            with removed_on_failure(Path(target.path)):
                yield Staging(target, Path(target.path), pointer)
        else:
            with tempfile.TemporaryDirectory(prefix="yunmin-stage-") as folder:
                try:
                    yield Staging(target, Path(folder), pointer)
                except PointerMovedError:
                    target.fs.rm(target.path, recursive=True)
                    raise

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
            PointerMovedError: somebody else published since staging began; theirs stays current.
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
        write_whole(staging.target / MANIFEST, manifest.model_dump_json(indent=1).encode())
        self._move(asset, domain, manifest.version, staging.pointer)
        return Snapshot(staging.target, manifest, Path(self.cache).expanduser())

    def roll_back(self, asset: str, domain: str | None, version: str) -> None:
        """Make another whole snapshot the current one; nothing is removed.

        Whoever publishes meanwhile may put their snapshot in front again, at once or by a retry. Two roll-backs to
        one version both succeed.

        Raises:
            LakeError: there is no such snapshot.
            PointerMovedError: somebody publishes at this moment.
        """
        pointer = pointer_tag(self._home(asset, domain) / POINTER)
        self._move(asset, domain, self.open(asset, domain, version).manifest.version, pointer)

    @contextlib.contextmanager
    def workspace(self, asset: str, domain: str | None, fingerprint: str) -> Iterator[Path]:
        """A local folder for checkpoints, keyed by what is computed, that survives a killed run.

        With a remote lake it survives the machine as well; see `remote_workspace`.
        """
        home = self._work(asset, domain) / fingerprint
        if not is_local(home):
            local = Path(self.cache).expanduser() / WORK / _checked(asset) / _domain_folder(domain)
            with mirrored_folder(home, local) as folder:
                yield folder
            return
        Path(home.path).mkdir(parents=True, exist_ok=True)
        with held(Path(home.path)):
            yield Path(home.path)

    def drop_workspace(self, asset: str, domain: str | None, fingerprint: str) -> None:
        """Remove the checkpoints of a computation once its snapshot is published.

        Those of other fingerprints may be those of a living run; `collect` removes them when they have aged.
        """
        work = self._work(asset, domain) / fingerprint
        with contextlib.suppress(FileNotFoundError):
            work.fs.rm(work.path, recursive=True)

    def fetch(self, location: Location) -> Path:
        """What a user gives, a file or folder, on this machine; what lies on S3 is fetched once. See `given_files`.

        Raises:
            LakeError: there is nothing, or it was changed while it was fetched.
        """
        if isinstance(location, Path):
            if not location.exists():
                raise LakeError(f"there is nothing at {location}: correct the path in the configuration")
            return location
        return fetch_given(open_uri(location, self.endpoint_url), Path(self.cache).expanduser())

    def garbage(self, *, older_than: float = DAY) -> list[UPath]:
        """Folders and temporary files that publishers left behind when they died, and checkpoints nobody took up.

        Of a remote lake, what they left in this machine's cache as well.

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
            if not (folder / MANIFEST).exists() and _last_change(folder) < before and not is_in_use(folder)
        ]
        for home in homes:
            for path in home.iterdir():
                if path.name.startswith(f".{POINTER}") and _last_change(path) < before:
                    found.append(path)
        for asset in self._folders(self._root / WORK):
            for work in (work for home in self._folders(asset) for work in self._folders(home)):
                if _last_change(work) < before and not is_in_use(work):
                    found.append(work)
        return sorted([*found, *self._left_in_cache(before)], key=str)

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

    def _left_in_cache(self, before: float) -> list[UPath]:
        if is_local(self._root):
            return []
        cache = Path(self.cache).expanduser()
        patterns = (f"{FETCHING}*", f"{GIVEN}/{FETCHING}*", f"{WORK}/*/*/{ATTEMPT}*")
        found = [UPath(path) for pattern in patterns for path in cache.glob(pattern)]
        return [path for path in found if not is_in_use(path) and _last_change(path) < before]

    @cached_property
    def _root(self) -> UPath:
        return open_uri(self.uri, self.endpoint_url)

    def _home(self, asset: str, domain: str | None) -> UPath:
        return self._root / _checked(asset) / _domain_folder(domain)

    def _move(self, asset: str, domain: str | None, version: str, expected: str | None) -> None:
        content = json.dumps({"version": version}).encode()
        if not move_pointer(self._home(asset, domain) / POINTER, content, expected):
            name = f"{asset}[{domain}]" if domain else asset
            raise PointerMovedError(
                f"{name} was published by somebody else meanwhile: theirs stays current; materialize it again if it "
                "is not up to date"
            )

    def _work(self, asset: str, domain: str | None) -> UPath:
        return self._root / WORK / _checked(asset) / _domain_folder(domain)

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
        options: dict[str, Any] = {"use_listings_cache": False, "config_kwargs": S3_CLIENT}
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


def _last_change(path: UPath) -> float:
    """Seconds since the epoch of the newest file in a folder (of the folder itself when it is empty)."""
    if not is_local(path):
        # S3 has no folders, so there is no empty one.
        found = path.fs.find(path.path, detail=True).values()
        return max((entry["LastModified"].timestamp() for entry in found), default=0.0)
    own = Path(path.path)
    return max(
        each.stat().st_mtime for each in (own, *(child for child in own.rglob("*") if child.is_file()))
    )

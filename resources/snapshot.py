"""A snapshot: the files an asset published at one time, and the manifest that says what they are.

The manifest is written last, so a folder without one is garbage. It holds the hash of every file, the
inputs, what it cost, and what the asset told about itself.
"""

import datetime as dt
import hashlib
import json
import os
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from dagster import Failure
from pydantic import Field
from upath import UPath

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.files import sha256_of

MANIFEST = "manifest.json"
FETCHING = ".fetch-"
"""How a folder in the cache begins whose files are not all there yet."""


class LakeError(Failure):
    """Something in the lake is absent or broken; the message names it and the cure. No retry would help."""

    def __init__(self, message: str, *, allow_retries: bool = False) -> None:
        super().__init__(message, allow_retries=allow_retries)


class BrokenPointerError(LakeError):
    """The pointer of an asset names a snapshot that is not there."""


class PointerMovedError(LakeError):
    """Somebody else published while this was computed. A retry finds their snapshot."""

    def __init__(self, message: str) -> None:
        super().__init__(message, allow_retries=True)


class FileEntry(ConfigModel):
    """One file of a snapshot."""

    name: str
    bytes: int
    sha256: str
    rows: int | None = None
    columns: dict[str, str] | None = None


class Cost(ConfigModel):
    """What it took to compute a snapshot."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    tokens: int = 0


class Manifest(ConfigModel):
    """Everything known about a snapshot; written once, beside its files."""

    asset: str
    domain: str | None
    version: str
    created: str
    content_hash: str
    fingerprint: str
    code_version: str
    inputs: dict[str, str]
    files: list[FileEntry]
    cost: Cost = Cost()
    summary: dict[str, Any] = Field(default_factory=dict)


class Snapshot:
    """A published snapshot, readable until it is collected."""

    def __init__(self, folder: UPath, manifest: Manifest, cache: Path) -> None:
        self.folder = folder
        self.manifest = manifest
        self._cache = cache

    @property
    def content_hash(self) -> str:
        """SHA-256 over the names and contents of the files: the Dagster `DataVersion`."""
        return self.manifest.content_hash

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.manifest.files)

    @cached_property
    def local(self) -> Path:
        """The snapshot as a folder on this machine; a remote one is fetched once and verified."""
        if is_local(self.folder):
            return Path(self.folder.path)
        target = self._cache / self.manifest.content_hash
        if not target.exists():
            self._fetch(target)
        return target

    def file(self, name: str) -> FileEntry:
        """The manifest's entry of one file.

        Raises:
            LakeError: the snapshot has no such file.
        """
        for entry in self.manifest.files:
            if entry.name == name:
                return entry
        raise LakeError(f"{self.folder} has no file {name}: materialize {self.manifest.asset} again")

    def files(self, prefix: str) -> list[FileEntry]:
        """The manifest's entries of all files whose name begins with `prefix`, sorted by name."""
        return [entry for entry in self.manifest.files if entry.name.startswith(prefix)]

    def rows(self, prefix: str) -> int:
        """Rows of all Parquet files whose name begins with `prefix`."""
        return sum(entry.rows or 0 for entry in self.files(prefix))

    def verify(self) -> list[str]:
        """Read every file again; return a line for each that is missing or not what was published."""
        problems = []
        for entry in self.manifest.files:
            path = self.folder / entry.name
            if not path.exists():
                problems.append(f"{path}: missing")
            elif (found := sha256_of(path)) != entry.sha256:
                problems.append(f"{path}: SHA-256 is {found}, the manifest says {entry.sha256}")
        return problems

    def _fetch(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=FETCHING, dir=target.parent))
        published = dt.datetime.fromisoformat(self.manifest.created).timestamp()
        for entry in self.manifest.files:
            path = part / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            self.folder.fs.get_file((self.folder / entry.name).path, str(path))
            if sha256_of(path) != entry.sha256:
                shutil.rmtree(part)
                raise LakeError(
                    f"{self.folder / entry.name} differs from its manifest: it was changed or cut short"
                )
            os.utime(path, (published, published))  # on every machine the same file, for who compares times
        put_in_cache(part, target)


def put_in_cache(part: Path, target: Path) -> None:
    """Give a fetched folder its name in the cache, unless another process fetched the same content first."""
    try:
        os.rename(part, target)
    except OSError:
        shutil.rmtree(part)
        if not target.exists():
            raise


def is_local(path: UPath) -> bool:
    """Whether a path lies on this machine."""
    return path.protocol in ("", "file", "local")


def describe_files(folder: Path) -> list[FileEntry]:
    """An entry for every file below a folder, sorted by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [_describe_file(path, path.relative_to(folder).as_posix()) for path in paths]


def _describe_file(path: Path, name: str) -> FileEntry:
    rows, columns = None, None
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as parquet:
            rows = parquet.metadata.num_rows
            columns = {field.name: str(field.type) for field in _fields(parquet.schema_arrow)}
    return FileEntry(name=name, bytes=path.stat().st_size, sha256=sha256_of(path), rows=rows, columns=columns)


def _fields(schema: pa.Schema) -> list[pa.Field]:
    return [schema.field(index) for index in range(len(schema))]


def content_hash_of(files: list[FileEntry]) -> str:
    """SHA-256 over the names and hashes of files."""
    listing = json.dumps([[file.name, file.sha256] for file in files])
    return hashlib.sha256(listing.encode()).hexdigest()

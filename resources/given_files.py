"""Files that a user keeps on S3 and names in the configuration: a base model, a tokenizer, benchmarks.

They are fetched once into the cache, under a name made of their URIs, sizes and ETags: what was overwritten on S3 is
fetched anew. The listing is read again afterwards, so that a folder that somebody is just replacing is never mixed.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from upath import UPath

from resources.snapshot import FETCHING, LakeError, put_in_cache

GIVEN = "given"
"""Folder in the cache."""


def fetch_given(source: UPath, cache: Path) -> Path:
    """The file or folder at an `s3://` URI, on this machine.

    Args:
        source: an object, or a prefix that objects lie below.
        cache: local folder.

    Raises:
        LakeError: there is nothing at the URI, or it was changed while it was fetched.
    """
    listing = _listing(source)
    digest = hashlib.sha256(json.dumps([str(source), listing]).encode()).hexdigest()
    target = cache / GIVEN / digest
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=FETCHING, dir=target.parent))
        try:
            _fetch(source, listing, part / source.name)
        except BaseException:
            shutil.rmtree(part)
            raise
        put_in_cache(part, target)
    return target / source.name


def _listing(source: UPath) -> list[tuple[str, int, str]]:
    """Name below the source (empty for the object itself), bytes and ETag of every object, sorted."""
    root = str(source.fs._strip_protocol(source.path))
    found = source.fs.find(root, detail=True)
    objects = [
        (key.removeprefix(root).lstrip("/"), int(entry["size"]), str(entry["ETag"]))
        for key, entry in found.items()
        if not key.endswith("/")
    ]
    if not objects:
        raise LakeError(
            f"there is nothing at {source}: upload it there, or correct the URI in the configuration"
        )
    return sorted(objects)


def _fetch(source: UPath, listing: list[tuple[str, int, str]], target: Path) -> None:
    for name, size, _ in listing:
        path, remote = (target / name, source / name) if name else (target, source)
        path.parent.mkdir(parents=True, exist_ok=True)
        remote.fs.get_file(remote.path, str(path))
        if path.stat().st_size != size:
            raise LakeError(
                f"{remote} gave {path.stat().st_size} of {size} bytes: run it again", allow_retries=True
            )
    if _listing(source) != listing:
        raise LakeError(f"{source} was changed while it was fetched: run it again", allow_retries=True)

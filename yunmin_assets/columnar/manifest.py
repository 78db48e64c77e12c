"""`manifest.json` of a packed data set: what was packed, how, and the hash of every file."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.files import sha256_of
from yunmin_assets.progress import Log, Progress, silent

MANIFEST_FILE = "manifest.json"


def shard_name(number: int) -> str:
    """File name of a shard; names sort in the order of the shards."""
    return f"shard-{number:05d}.parquet"


class ShardEntry(ConfigModel):
    """One Parquet file."""

    name: str
    rows: int
    bytes: int
    sha256: str


class PackManifest(ConfigModel):
    """Description of a packed data set."""

    format: Literal["yunmin-packed-1"] = "yunmin-packed-1"
    files: tuple[ShardEntry, ...]
    rows: int
    tokens: int
    """Tokens of all documents and one end-of-text token after each; padding not counted."""
    documents: int
    padding_tokens: int
    """End-of-text tokens that fill up the one incomplete row."""
    domains: dict[str, int]
    """Rows of each domain."""
    tokenizer_hash: str
    dtype: Literal["uint16", "uint32"]
    seq_len: int
    vocab_size: int
    eos_id: int
    seed: int
    compression: Literal["zstd", "none"]

    @property
    def token_type(self) -> np.dtype:
        """Little-endian dtype of a stored token."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of `seq_len` + 1 tokens."""
        return (self.seq_len + 1) * self.token_type.itemsize

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest. It covers the hash of every file, so it names the data set."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        (folder / MANIFEST_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "PackManifest":
        """Read the manifest of a packed data set.

        Raises:
            FileNotFoundError: no manifest in `folder`.
            ValueError: the manifest is damaged or of another format.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: {folder} is no packed data set, or was not packed to the end"
            )
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is not a manifest of a packed data set: {error}") from error


def verify_packed(folder: Path, log: Log = silent) -> PackManifest:
    """Read every byte of a packed data set and compare it with the manifest.

    Raises:
        FileNotFoundError: the manifest or a shard is missing.
        ValueError: a shard's bytes differ from those that were written.
    """
    manifest = PackManifest.read(folder)
    with Progress(log, "shards", len(manifest.files)) as progress:
        for entry in manifest.files:
            if sha256_of(folder / entry.name) != entry.sha256:
                raise ValueError(
                    f"{folder / entry.name}: the file's SHA-256 is not the one in {MANIFEST_FILE}"
                )
            progress.advance()
    return manifest

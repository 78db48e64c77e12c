"""`manifest.json` of a packed data set: what was packed, how, and the hash of every file."""

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from yunmin_assets.columnar.page_reader import DamagedFileError
from yunmin_assets.columnar.shuffling import place_of_last_row
from yunmin_assets.config_model import ConfigModel
from yunmin_assets.files import write_whole

MANIFEST_FILE = "manifest.json"
FINGERPRINT = "fingerprint"
"""Key of the manifest's own hash, so that a flipped byte in it is found."""


def shard_name(number: int) -> str:
    """File name of a shard; names sort in the order of the shards."""
    return f"shard-{number:05d}.parquet"


class ShardEntry(ConfigModel):
    """One Parquet file."""

    name: str = Field(pattern=r"^shard-[0-9]{5,}\.parquet$")
    rows: int
    bytes: int
    sha256: str
    index_sha256: str | None = None
    """Of the page index beside the shard (see shard_index); None for a shard that was packed without one."""


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
    padded_row: int | None = None
    """Number of that row in stored order, over all shards from 0; None without padding, and in manifests that
    are older than this field (see `place_of_padding`)."""
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
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()

    def place_of_padding(self) -> int | None:
        """`padded_row`, worked out where the manifest is older than it; None without padding."""
        if self.padding_tokens == 0 or self.padded_row is not None:
            return self.padded_row
        return place_of_last_row(self.rows, self.seed)

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        content = {**self.model_dump(mode="json", exclude_none=True), FINGERPRINT: self.fingerprint}
        write_whole(folder / MANIFEST_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "PackManifest":
        """Read the manifest of a packed data set.

        Raises:
            FileNotFoundError: no manifest in `folder`.
            DamagedFileError: the manifest is damaged or of another format.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: {folder} is no packed data set, or was not packed to the end"
            )
        return cls.parse(path.read_bytes(), path)

    @classmethod
    def parse(cls, data: bytes, path: Path | str) -> "PackManifest":
        """The manifest that `data`, the content of `path`, holds.

        Raises:
            DamagedFileError: it is not what was written, or of another format.
        """
        try:
            content = json.loads(data)
            written = content.pop(FINGERPRINT, None)  # absent from manifests that are older than it
            manifest = cls.model_validate_json(json.dumps(content))
        except (ValueError, AttributeError, TypeError) as error:
            offset = getattr(error, "pos", 0)
            problem = f"not a manifest of a packed data set ({error})"
            raise DamagedFileError(path, offset, problem) from error
        if written not in (None, manifest.fingerprint):
            raise DamagedFileError(path, 0, f"the content does not match its own {FINGERPRINT}")
        return manifest

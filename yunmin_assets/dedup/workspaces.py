"""Workspaces that only an attempt at the same work may go on from."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from yunmin_assets.dedup.config import DedupConfig

START = "start.sha256"
PARQUET_TAIL_BYTES = 1 << 16
"""The end of a Parquet file holds its footer, with sizes and the least and largest values of all columns."""


def start_workspace(
    workspace: Path, config: DedupConfig, arrays: Sequence[npt.NDArray[Any]], files: Sequence[Path]
) -> None:
    """Keep what an attempt left that began with the same options, arrays and files; else start over.

    Files are told apart by their names, sizes and footers.
    """
    digest = hashlib.sha256(config.model_dump_json().encode())
    for array in arrays:
        digest.update(array.data)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            content.seek(max(0, size - PARQUET_TAIL_BYTES))
            digest.update(content.read())
    start = workspace / START
    if not start.exists() or start.read_text() != digest.hexdigest():
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        start.write_text(digest.hexdigest())

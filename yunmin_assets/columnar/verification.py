"""Hold what lies on disk against what was packed.

- `verify_packed`: a data set against its manifest. Every byte, no file too many, the padding where it is said
  to be.
- `stored_record_hash`: the rows themselves, whatever their order, against those that were cut
  (`RowCounts.record_hash`). A token, a document start or a row that changed, moved or got lost on its way
  through the shuffle gives another hash.

Rows are read by pyarrow, which checks every page, and not by the loader's own reader.

Price: `verify_packed` reads each file once; `stored_record_hash` decodes all of them, one row group in memory.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from yunmin_assets.columnar.manifest import MANIFEST_FILE, PackManifest
from yunmin_assets.columnar.rows import HASH_MODULUS, RowLayout, record_hash
from yunmin_assets.columnar.shard_index import DOC_START, check_index, index_name
from yunmin_assets.columnar.shard_writer import TOKENS
from yunmin_assets.columnar.shuffling import place_of_last_row
from yunmin_assets.files import sha256_of
from yunmin_assets.progress import Log, Progress, silent


def verify_packed(folder: Path, log: Log = silent) -> PackManifest:
    """Read every byte of a packed data set and compare it with the manifest.

    Raises:
        FileNotFoundError: the manifest or a shard is missing.
        ValueError: a shard's bytes differ from those that were written, a Parquet file is not in the manifest,
            or the manifest's rows or its padded row are wrong.
    """
    manifest = PackManifest.read(folder)
    _check_counts(folder, manifest)
    unknown = sorted(
        {path.name for path in folder.glob("*.parquet")} - {entry.name for entry in manifest.files}
    )
    if unknown:
        raise ValueError(
            f"{folder}: {', '.join(unknown)} not in {MANIFEST_FILE}, but other tools would read it: remove it"
        )
    with Progress(log, "shards", len(manifest.files)) as progress:
        for entry in manifest.files:
            if sha256_of(folder / entry.name) != entry.sha256:
                raise ValueError(
                    f"{folder / entry.name}: the file's SHA-256 is not the one in {MANIFEST_FILE}"
                )
            if entry.index_sha256 is not None:
                index = folder / index_name(entry.name)
                check_index(index, index.read_bytes(), entry.index_sha256)
            progress.advance()
    _check_padding(folder, manifest)
    return manifest


def stored_record_hash(folder: Path, manifest: PackManifest) -> int:
    """`rows.record_hash` of all rows of a packed data set.

    Raises:
        OSError, pyarrow.ArrowException: a shard cannot be read.
    """
    return sum(map(record_hash, stored_records(folder, manifest))) % HASH_MODULUS


def stored_records(folder: Path, manifest: PackManifest) -> Iterator[NDArray[np.uint8]]:
    """Yield the rows of a packed data set in stored order as the records that they were made from (see rows).

    Raises:
        OSError, pyarrow.ArrowException: a shard cannot be read.
    """
    layout = RowLayout(manifest.seq_len, manifest.dtype)
    for entry in manifest.files:
        with pq.ParquetFile(folder / entry.name, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield _records(file.read_row_group(group, [TOKENS, DOC_START], use_threads=False), layout)


def _records(table: pa.Table, layout: RowLayout) -> NDArray[np.uint8]:
    tokens, lists = table[TOKENS].combine_chunks(), table[DOC_START].combine_chunks()
    rows = len(table)
    token_bytes = np.frombuffer(tokens.buffers()[1], np.uint8)[tokens.offset * layout.token_bytes :]
    starts = np.zeros((rows, layout.seq_len), np.bool_)
    starts[np.repeat(np.arange(rows), np.diff(lists.offsets.to_numpy())), lists.flatten().to_numpy()] = True
    return layout.join(token_bytes[: rows * layout.token_bytes].reshape(rows, -1), starts)


def _check_counts(folder: Path, manifest: PackManifest) -> None:
    rows = sum(entry.rows for entry in manifest.files)
    if not rows == manifest.rows == sum(manifest.domains.values()):
        raise ValueError(
            f"{folder / MANIFEST_FILE}: the shards have {rows} rows, but it says {manifest.rows} in all and "
            f"{manifest.domains} by domain"
        )


def _check_padding(folder: Path, manifest: PackManifest) -> None:
    """Whether the last row cut is the one that is said to be padded, and is padded."""
    padded, padding = manifest.place_of_padding(), manifest.padding_tokens
    expected = place_of_last_row(manifest.rows, manifest.seed) if padding else None
    if padded != expected:
        raise ValueError(
            f"{folder / MANIFEST_FILE}: padded_row is {padded}, but the last row cut lies at {expected}"
        )
    if padded is None:
        return
    layout = RowLayout(manifest.seq_len, manifest.dtype)
    token_bytes, starts = layout.split(_record(folder, manifest, padded))
    tail = token_bytes.view(layout.token_type)[0, -padding - 1 :]  # the end of the last document, and padding
    if (tail != manifest.eos_id).any() or starts[0, layout.seq_len - padding + 1 :].any():
        raise ValueError(f"{folder}: row {padded} does not end with the {padding} tokens of padding")


def _record(folder: Path, manifest: PackManifest, row: int) -> NDArray[np.uint8]:
    """One row in stored order, uint8 [1, record_bytes]."""
    for records in stored_records(folder, manifest):
        if row < len(records):
            return records[row : row + 1]
        row -= len(records)
    raise ValueError(f"{folder}: there are {row} rows too few for the padded one")

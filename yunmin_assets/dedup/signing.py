"""Signing the documents of a domain, in bounded memory.

Files are signed one by one into a workspace, some row groups at a time on all cores, and then the keys of
all files are sorted band by band. Who is killed goes on behind the last finished file.

Price: one pass over the texts; memory holds `PIECE_BYTES` of text or the largest row group, and a range
of keys. The workspace takes 8 bytes per document and band, and a copy of the signatures.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.id_hashes import hash_ids
from yunmin_assets.dedup.kernels import announce_first_use, sign_texts
from yunmin_assets.dedup.key_files import Keys, write_keys
from yunmin_assets.dedup.signature_files import (
    OPTIONS_KEY,
    TEXT_HASH_BYTES,
    TEXT_HASHES_FILE,
    WRITE_OPTIONS,
    band_file,
    document_part,
    document_schema,
)
from yunmin_assets.dedup.signatures import Signatures, compute_signatures
from yunmin_assets.dedup.workspaces import start_workspace
from yunmin_assets.progress import Log, Progress, silent

PIECE_BYTES = 64 << 20
"""Text and signatures in memory at once, if the budget is large enough: keeps every core busy."""
BYTES_PER_SIGNATURE = 2048
"""Signature, keys and copies of them, at 126 permutations and 21 bands."""
REPEATED_IDS_NAMED = 5
TEXT_HASH_ROWS = slice(-3, -1)


def write_signatures(
    sources: Sequence[Path], folder: Path, config: DedupConfig, *, workspace: Path, log: Log = silent
) -> int:
    """Sign the documents of one domain and write the files that `signature_files` describes to `folder`.

    Args:
        sources: Parquet files with columns id, text and, if `config.quality` is set, meta.
        folder: where the files go.
        config: the options of the signatures, and the memory budget.
        workspace: keeps finished files for the next attempt if this one is killed.
        log: progress.

    Returns:
        The number of signatures, which is the number of documents.

    Raises:
        ValueError: a text is not UTF-8, a quality is not a number, an id or text is null or an id is repeated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start_workspace(workspace, config, [], sources)
    announce_first_use(sign_texts, log)
    total = sum(pq.read_metadata(source).num_rows for source in sources)
    with Progress(log, "documents signed", total) as progress:
        parts = [
            _sign_file(source, number, workspace, config, progress) for number, source in enumerate(sources)
        ]
    _refuse_repeated_ids(sources, [part.id_hashes() for part in parts])
    for part in parts:
        shutil.copyfile(part.documents, folder / part.documents.name)
    budget, metadata = config.memory_budget_bytes, {OPTIONS_KEY: config.signature_options()}
    for band in range(config.bands):
        keys = partial(_rows_of, parts, slice(band, band + 1))
        write_keys(folder / band_file(band), keys, total, budget, metadata)
    text_hashes = partial(_rows_of, parts, TEXT_HASH_ROWS)
    write_keys(folder / TEXT_HASHES_FILE, text_hashes, total, budget, metadata, halves=2)
    log(f"wrote {total:,} signatures and {config.bands} sorted bands")
    return total


@dataclass(frozen=True)
class _Part:
    """A signed file in the workspace: the rows of documents, and their hashes as uint64[bands + 3, n]."""

    documents: Path
    keys: Path

    def hashes(self, rows: slice) -> Keys:
        """Some rows of the hashes: of bands from the first on, at the end text hash (two) and id."""
        return np.array(np.load(self.keys, mmap_mode="r")[rows])

    def id_hashes(self) -> Keys:
        return self.hashes(slice(-1, None))[0]


def _rows_of(parts: Sequence[_Part], rows: slice) -> Iterator[Keys]:
    return (part.hashes(rows) for part in parts)


def _sign_file(source: Path, number: int, workspace: Path, config: DedupConfig, progress: Progress) -> _Part:
    part = _Part(workspace / document_part(number), workspace / f"keys-{number:05d}.npy")
    if part.documents.exists():
        progress.advance(pq.read_metadata(part.documents).num_rows)
        return part
    unfinished = part.documents.with_suffix(".part")
    keys = [np.empty((config.bands + 3, 0), np.uint64)]
    with pq.ParquetWriter(unfinished, document_schema(config), **WRITE_OPTIONS) as writer:
        for piece, group_rows in _pieces(source, config):
            try:
                signatures = compute_signatures(piece["text"], config)
            except ValueError as problem:
                raise ValueError(f"{source}: {problem}") from problem
            table = _document_table(piece, signatures, source, config)
            for first, last in pairwise(np.cumsum([0, *group_rows]).tolist()):
                writer.write_table(table.slice(first, last - first), row_group_size=max(1, last - first))
            keys.append(
                np.concatenate([signatures.band_keys, signatures.text_hash.T, [table["id_hash"].to_numpy()]])
            )
            progress.advance(len(signatures))
    np.save(part.keys, np.concatenate(keys, axis=1))
    os.replace(unfinished, part.documents)  # last: it says that the part is complete
    return part


def _pieces(source: Path, config: DedupConfig) -> Iterator[tuple[pa.Table, list[int]]]:
    """Some row groups of a file at a time, and how many rows each of them has."""
    columns = ["id", "text", "meta"] if config.quality else ["id", "text"]
    limit = min(PIECE_BYTES, config.memory_budget_bytes // 4)
    with pq.ParquetFile(source) as file:
        missing = set(columns).difference(file.schema_arrow.names)
        if missing:
            raise ValueError(f"{source} has no column {', '.join(sorted(missing))}: clean the corpus again")
        groups: list[int] = []
        size = 0
        for group in range(file.metadata.num_row_groups):
            groups.append(group)
            rows = file.metadata.row_group(group)
            size += rows.total_byte_size + BYTES_PER_SIGNATURE * rows.num_rows
            if size >= limit or group == file.metadata.num_row_groups - 1:
                group_rows = [file.metadata.row_group(index).num_rows for index in groups]
                yield file.read_row_groups(groups, columns=columns), group_rows
                groups, size = [], 0


def _document_table(piece: pa.Table, signatures: Signatures, source: Path, config: DedupConfig) -> pa.Table:
    count, num_perm = signatures.minhash.shape
    hashes = pa.py_buffer(signatures.text_hash.astype("<u8").tobytes())
    ids = piece["id"].cast(pa.string())
    if ids.null_count:
        raise ValueError(f"{source}: {ids.null_count:,} documents have no id: give them one")
    columns = [
        ids,
        hash_ids(ids),
        pc.binary_length(piece["text"]).cast(pa.int64()),
        _qualities(piece, source, config.quality),
        signatures.characters,
        signatures.shingles,
        pa.Array.from_buffers(pa.binary(TEXT_HASH_BYTES), count, [None, hashes]),
        pa.FixedSizeListArray.from_arrays(pa.array(signatures.minhash.ravel()), num_perm),
    ]
    return pa.table(columns, schema=document_schema(config))


def _qualities(piece: pa.Table, source: Path, key: str | None) -> pa.Array:
    """The number under `key` in each document's meta, a JSON object; null where there is none."""
    if key is None:
        return pa.nulls(piece.num_rows, pa.float64())
    qualities: list[float | None] = []
    for identifier, meta in zip(piece["id"].to_pylist(), piece["meta"].to_pylist(), strict=True):
        try:
            values = orjson.loads(meta) if meta is not None else {}
        except orjson.JSONDecodeError as problem:
            raise ValueError(f"{source}: meta of document {identifier!r} is no JSON: {problem}") from problem
        quality = values.get(key) if isinstance(values, dict) else None
        if isinstance(quality, bool) or not isinstance(quality, int | float | None):
            raise ValueError(
                f"{source}: meta.{key} of document {identifier!r} is {quality!r}: it must be a number"
            )
        qualities.append(None if quality is None else float(quality))
    return pa.array(qualities, pa.float64())


def _refuse_repeated_ids(sources: Sequence[Path], id_hashes: Sequence[Keys]) -> None:
    hashes = np.sort(np.concatenate([np.empty(0, np.uint64), *id_hashes]))
    suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not suspects.size:
        return
    places: dict[str, list[str]] = {}
    for source, part in zip(sources, id_hashes, strict=True):
        ids = pq.read_table(source, columns=["id"])["id"].take(
            pa.array(np.flatnonzero(np.isin(part, suspects)))
        )
        for identifier in ids.to_pylist():
            places.setdefault(identifier, []).append(source.name)
    repeated = {identifier: files for identifier, files in places.items() if len(files) > 1}
    if repeated:
        named = "; ".join(
            f"{identifier!r} in {', '.join(sorted(set(files)))}"
            for identifier, files in list(repeated.items())[:REPEATED_IDS_NAMED]
        )
        raise ValueError(f"{len(repeated):,} ids occur more than once, such as {named}: make the ids unique")

"""Signatures on disk: one Parquet file of documents and one per band.

    documents.parquet   id string, characters int32, n_shingles int32, text_hash fixed_size_binary[16],
                        signature fixed_size_list<uint32>[num_perm]; rows in the order of the input
    band-00.parquet …   key uint64, document uint32 (row in documents.parquet); sorted by (key, document)

One file per band, because grouping one band at a time needs a fraction of the memory of all at once
(63 million band rows: 0.4 against 7.2 GB). `text_hash` is `Signatures.text_hash` as 16 little-endian bytes.
The options that a signature depends on are in the schema metadata of every file, so signatures made with
others are refused. Files are written beside their place and renamed.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from yunmin_assets.dedup.checks import check_documents
from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.signatures import Signatures, band_keys, compute_signatures
from yunmin_assets.progress import Log, silent

DOCUMENTS_FILE = "documents.parquet"
OPTIONS_KEY = b"yunmin.dedup.signatures"
SIGNATURE_OPTIONS = {"ngram", "bands", "rows", "seed", "punctuation"}
TEXT_HASH_BYTES = 16
ROW_GROUP_DOCUMENTS = 16384
"""8 MB of signatures."""
WRITE_OPTIONS: dict[str, Any] = {
    "compression": {"id": "zstd", "characters": "zstd", "n_shingles": "zstd"},  # the rest is noise
    "use_dictionary": False,
    "row_group_size": ROW_GROUP_DOCUMENTS,
    "write_page_checksum": True,
}


def band_file(band: int) -> str:
    """The name of a band's file: `band-07.parquet`."""
    return f"band-{band:02d}.parquet"


def write_signatures(documents: pa.Table, folder: Path, config: DedupConfig, *, log: Log = silent) -> int:
    """Sign the documents (columns id and text; others are ignored) and write the files above to `folder`.

    Returns:
        The number of signatures, which is the number of documents.

    Raises:
        ValueError: as `compute_signatures`, or an id is null or repeated.
    """
    check_documents(documents, config.model_copy(update={"domain_priority": ()}))
    signatures = compute_signatures(documents["text"], config, log=log)
    folder.mkdir(parents=True, exist_ok=True)
    _write(_document_table(documents["id"], signatures), folder / DOCUMENTS_FILE, config)
    for band, keys in enumerate(signatures.band_keys):
        order = np.argsort(keys, kind="stable")
        table = pa.table({"key": keys[order], "document": order.astype(np.uint32)})
        _write(table, folder / band_file(band), config)
    log(f"wrote {len(signatures):,} signatures and {config.bands} bands to {folder}")
    return len(signatures)


def read_signatures(folder: Path, config: DedupConfig | None = None) -> Signatures:
    """The signatures that `write_signatures` wrote, in the order of its documents.

    Args:
        folder: where they are.
        config: refuse signatures that were made with other options than these.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or was made with other options.
    """
    table, made_with = _read(folder / DOCUMENTS_FILE, config)
    minhash = _flat(table["signature"], np.uint32, made_with.num_perm)
    return Signatures(
        minhash=minhash,
        shingles=table["n_shingles"].to_numpy(),
        characters=table["characters"].to_numpy(),
        text_hash=_flat(table["text_hash"], np.uint64, TEXT_HASH_BYTES // np.dtype(np.uint64).itemsize),
        band_keys=band_keys(minhash, made_with),
    )


def read_band(folder: Path, band: int, config: DedupConfig | None = None) -> pa.Table:
    """One band: key uint64 and document uint32, sorted by key. Raises as `read_signatures`."""
    return _read(folder / band_file(band), config)[0]


def _document_table(ids: pa.ChunkedArray, signatures: Signatures) -> pa.Table:
    count, num_perm = signatures.minhash.shape
    hashes = pa.py_buffer(signatures.text_hash.astype("<u8").tobytes())
    return pa.table(
        {
            "id": ids,
            "characters": signatures.characters,
            "n_shingles": signatures.shingles,
            "text_hash": pa.Array.from_buffers(pa.binary(TEXT_HASH_BYTES), count, [None, hashes]),
            "signature": pa.FixedSizeListArray.from_arrays(pa.array(signatures.minhash.ravel()), num_perm),
        }
    )


def _flat(column: pa.ChunkedArray, dtype: type, width: int) -> npt.NDArray[Any]:
    """A column of fixed-size values as dtype[rows, width]."""
    chunks = []
    for chunk in column.chunks:
        if pa.types.is_fixed_size_list(chunk.type):
            values = chunk.flatten().to_numpy()
        else:
            values = np.frombuffer(chunk.buffers()[1], dtype)[chunk.offset * width :][: len(chunk) * width]
        chunks.append(values.reshape(-1, width))
    return np.concatenate([np.empty((0, width), dtype), *chunks])


def _options(config: DedupConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", include=SIGNATURE_OPTIONS)


def _write(table: pa.Table, path: Path, config: DedupConfig) -> None:
    metadata = {OPTIONS_KEY: json.dumps(_options(config), sort_keys=True)}
    unfinished = path.with_name(f"{path.name}.part")
    pq.write_table(table.replace_schema_metadata(metadata), unfinished, **WRITE_OPTIONS)
    os.replace(unfinished, path)


def _read(path: Path, config: DedupConfig | None) -> tuple[pa.Table, DedupConfig]:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        made_with = DedupConfig(**json.loads(table.schema.metadata[OPTIONS_KEY]))
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as problem:
        raise ValueError(
            f"{path} is no file of signatures ({problem}): compute the signatures again"
        ) from problem
    if config is not None and _options(made_with) != _options(config):
        raise ValueError(
            f"{path} was made with {_options(made_with)}, not with {_options(config)}: "
            "compute the signatures again"
        )
    return table, made_with

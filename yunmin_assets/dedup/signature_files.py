"""Signatures of a domain on disk: the layout, and reading it. `signing` writes it.

    documents-00000.parquet …  a row per document, file by file and row group by row group as in the
                               `clean_corpus` snapshot: id string, id_hash uint64, bytes int64, quality
                               float64 (null if there is none), characters int32, n_shingles int32,
                               text_hash fixed_size_binary[16], signature fixed_size_list<uint32>[num_perm]
    band-00.parquet …          (band key, document), see `key_files`; document counts through the files
    text-hashes.parquet        (text hash, document): equal hashes are exact duplicates

One file per band, because grouping one band at a time needs a fraction of the memory of all at once
(63 million band rows: 0.4 against 7.2 GB). `text_hash` is `Signatures.text_hash` as 16 little-endian
bytes. The options that a signature depends on are in the schema metadata of every file, so signatures
made with others are refused.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from yunmin_assets.dedup.config import SIGNATURE_OPTIONS, DedupConfig
from yunmin_assets.dedup.key_files import naming, read_keys
from yunmin_assets.dedup.signatures import Signatures, band_keys

OPTIONS_KEY = "yunmin.dedup.signatures"
TEXT_HASH_BYTES = 16
TEXT_HASHES_FILE = "text-hashes.parquet"
WRITE_OPTIONS: dict[str, Any] = {
    "compression": {
        "id": "zstd",
        "bytes": "zstd",
        "quality": "zstd",
        "characters": "zstd",
        "n_shingles": "zstd",
    },
    "use_dictionary": False,
    "write_page_checksum": True,
}  # the other columns are hashes, which do not compress


def document_part(number: int) -> str:
    """The name of a file of documents: `documents-00000.parquet`."""
    return f"documents-{number:05d}.parquet"


def band_file(band: int) -> str:
    """The name of a band's file: `band-07.parquet`."""
    return f"band-{band:02d}.parquet"


def signature_parts(folder: Path) -> list[Path]:
    """The files of documents in a folder of signatures, in order."""
    return sorted(folder.glob("documents-*.parquet"))


def read_signatures(folder: Path, config: DedupConfig | None = None) -> Signatures:
    """All signatures of a folder in memory, in the order of the documents.

    Args:
        folder: where `write_signatures` wrote them.
        config: refuse signatures that were made with other options than these.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file cannot be read, or was made with other options.
    """
    parts = signature_parts(folder)
    if not parts:
        raise FileNotFoundError(f"{folder} holds no signatures")
    made_with, *_ = (check_options(part, config) for part in parts)
    table = pa.concat_tables([read_part(part) for part in parts])
    return signatures_of(table, flat_values(table["signature"], np.uint32, made_with.num_perm), made_with)


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A file of documents, or some columns of it. Raises ValueError if it is damaged."""
    with naming(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


def signatures_of(table: pa.Table, minhash: npt.NDArray[np.uint32], config: DedupConfig) -> Signatures:
    """Rows of the files of documents as `Signatures`, with their minhash uint32[n, num_perm]."""
    return Signatures(
        minhash=minhash,
        shingles=table["n_shingles"].to_numpy(),
        characters=table["characters"].to_numpy(),
        text_hash=text_hashes_of(table),
        band_keys=band_keys(minhash, config),
    )


def text_hashes_of(table: pa.Table) -> npt.NDArray[np.uint64]:
    """The column text_hash as uint64[n, 2]."""
    return flat_values(table["text_hash"], np.uint64, 2)


def read_band(folder: Path, band: int, config: DedupConfig | None = None) -> pa.Table:
    """One band: key uint64 and document uint32, sorted by key. Raises as `read_signatures`."""
    check_options(folder / band_file(band), config)
    return read_keys(folder / band_file(band))


def check_options(path: Path, config: DedupConfig | None) -> DedupConfig:
    """The options a file of signatures was made with.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or was made with options other than those of `config`, or by other code.
    """
    try:
        stored = json.loads(pq.read_schema(path).metadata[OPTIONS_KEY.encode()])
        options = {name: value for name, value in stored.items() if name in SIGNATURE_OPTIONS}
        made_with = DedupConfig(**options)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as problem:
        raise ValueError(
            f"{path} is no file of signatures ({problem}): compute the signatures again"
        ) from problem
    wanted = (config or made_with).signature_options()
    if stored != wanted:
        raise ValueError(f"{path} was made with {stored}, not with {wanted}: compute the signatures again")
    return made_with


def document_schema(config: DedupConfig) -> pa.Schema:
    """The columns of the files of documents."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("id_hash", pa.uint64(), nullable=False),
            pa.field("bytes", pa.int64(), nullable=False),
            pa.field("quality", pa.float64()),
            pa.field("characters", pa.int32(), nullable=False),
            pa.field("n_shingles", pa.int32(), nullable=False),
            pa.field("text_hash", pa.binary(TEXT_HASH_BYTES), nullable=False),
            pa.field("signature", pa.list_(pa.uint32(), config.num_perm), nullable=False),
        ],
        metadata={OPTIONS_KEY: json.dumps(config.signature_options(), sort_keys=True)},
    )


def flat_values(column: pa.ChunkedArray, dtype: type, width: int) -> npt.NDArray[Any]:
    """A column of fixed-size values as dtype[rows, width]."""
    chunks = []
    for chunk in column.chunks:
        if pa.types.is_fixed_size_list(chunk.type):
            values = chunk.flatten().to_numpy()
        else:
            values = np.frombuffer(chunk.buffers()[1], dtype)[chunk.offset * width :][: len(chunk) * width]
        chunks.append(values.reshape(-1, width))
    return np.concatenate([np.empty((0, width), dtype), *chunks])

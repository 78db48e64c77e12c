"""The same documents and token rows as JSONL and as Parquet, to compare how fast each is read.

    documents.jsonl    one object with all columns per line
    documents.parquet  the same documents, laid out as the *documents* product
    rows.jsonl         {"tokens": [seq_len + 1 ids]} per line
    packed/            the same rows, laid out as the *packed* product

It is a sample of what `parquet_shards` holds: as much from every domain, from the beginning of its first
shards, up to a size that is read in seconds, however many domains there are. Of a remote domain only the row
groups that are sampled are fetched. The token rows are stored ready to train on both sides: JSONL that had to be
tokenised first would lose by more.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.document_shards import (
    SHARD_SCHEMA,
    TOKEN_COUNT_FIELD,
    DocumentShardWriter,
    count_documents,
)
from yunmin_assets.columnar.manifest import MANIFEST_FILE, PackManifest, shard_name
from yunmin_assets.columnar.packing import write_shards
from yunmin_assets.columnar.rows import RowCounts, RowLayout
from yunmin_assets.columnar.shard_index import DOC_START
from yunmin_assets.columnar.shard_writer import TOKENS, ShardWriter
from yunmin_assets.documents import DOCUMENT_SCHEMA
from yunmin_assets.parquet_batches import batches_of
from yunmin_assets.snapshot_files import DOCUMENTS, PACKED

DOCUMENTS_JSONL, DOCUMENTS_PARQUET = "documents.jsonl", "documents.parquet"
ROWS_JSONL, SAMPLE_PACKED = "rows.jsonl", "packed"
LARGEST_TEXT_BYTES = 32_000_000
LARGEST_TOKENS = 8_000_000
SAMPLE_BATCH_DOCUMENTS, SAMPLE_BATCH_ROWS = 256, 256
FIRST_DOCUMENTS = f"{DOCUMENTS}/{shard_name(0)}"
FIRST_ROWS = f"{PACKED}/train/{shard_name(0)}"
ROWS_MANIFEST = f"{PACKED}/train/{MANIFEST_FILE}"
SAMPLED_FILES = (FIRST_DOCUMENTS, FIRST_ROWS, ROWS_MANIFEST)
"""What is read of a domain."""

Folder = Path | UPath


@dataclass(frozen=True)
class Sample:
    """How much was taken."""

    documents: int
    text_bytes: int
    rows: int
    tokens: int
    """Tokens of all rows, the one that two rows share counted once."""


def write_sample(shards: Mapping[str, Folder], folder: Path) -> Sample:
    """Write a sample of several domains into an existing folder.

    Args:
        shards: domain → a folder or remote prefix written by `write_domain_shards`.

    Raises:
        ValueError: two domains were packed with different layouts.
    """
    documents, text_bytes = _write_documents(shards, folder)
    rows, tokens = _write_rows(shards, folder)
    return Sample(documents, text_bytes, rows, tokens)


def layout_of(shards: Folder) -> PackConfig:
    """The layout of a domain's rows, as far as it matters for a loader."""
    path = shards / ROWS_MANIFEST
    manifest = PackManifest.parse(path.read_bytes(), str(path)).model_dump()
    return PackConfig(**{name: manifest[name] for name in ("seq_len", "vocab_size", "eos_id", "compression")})


def of_other_layout(shards: Mapping[str, Folder]) -> list[str]:
    """Domains that are not packed in the layout of most (of two as frequent, in that of the first)."""
    layouts = {domain: layout_of(folder) for domain, folder in shards.items()}
    (usual, _), *_ = Counter(layouts.values()).most_common(1)
    return [domain for domain, layout in layouts.items() if layout != usual]


def _write_documents(shards: Mapping[str, Folder], folder: Path) -> tuple[int, int]:
    """Number of documents, and bytes of their texts."""
    parquet, jsonl = DocumentShardWriter(folder / DOCUMENTS_PARQUET), (folder / DOCUMENTS_JSONL).open("wb")
    with parquet, jsonl:
        for path in shards.values():
            for batch in _first_documents(path, LARGEST_TEXT_BYTES // len(shards)):
                parquet.write(batch, batch[TOKEN_COUNT_FIELD.name].to_numpy())
                documents = batch.select(DOCUMENT_SCHEMA.names).to_pylist()
                jsonl.writelines(orjson.dumps(document) + b"\n" for document in documents)
    counts = count_documents([folder / DOCUMENTS_PARQUET])
    return counts.documents, counts.text_bytes


def _first_documents(shards: Folder, text_bytes: int) -> Iterator[pa.RecordBatch]:
    """The documents of a domain up to the one that brings their texts to so many bytes."""
    for batch in _record_batches(shards / FIRST_DOCUMENTS, SHARD_SCHEMA.names, SAMPLE_BATCH_DOCUMENTS):
        ends = np.cumsum(pc.binary_length(batch["text"]).to_numpy())
        enough = int(np.searchsorted(ends, text_bytes)) + 1
        yield batch.slice(0, enough)
        if enough <= batch.num_rows:
            return
        text_bytes -= int(ends[-1])


def _write_rows(shards: Mapping[str, Folder], folder: Path) -> tuple[int, int]:
    """Number of rows, and tokens in them."""
    if other := of_other_layout(shards):
        raise ValueError(f"{', '.join(other)}: packed in another layout than the other domains; pack again")
    config = layout_of(next(iter(shards.values())))
    (folder / SAMPLE_PACKED).mkdir()
    writer = ShardWriter(folder / SAMPLE_PACKED, config)
    counts = RowCounts()
    rows_of_domain = max(1, LARGEST_TOKENS // config.seq_len // len(shards))

    def records() -> Iterator[NDArray[np.uint8]]:
        with (folder / ROWS_JSONL).open("wb") as jsonl:
            for path in shards.values():
                for tokens, starts in _first_rows(path, writer.layout, rows_of_domain):
                    jsonl.writelines(orjson.dumps({TOKENS: row}) + b"\n" for row in tokens.tolist())
                    counts.rows += len(tokens)
                    counts.documents += int(starts.sum())
                    yield writer.layout.join(tokens, starts)
        counts.document_tokens = counts.rows * config.seq_len + 1 - counts.documents

    write_shards(lambda _: records(), counts, writer)
    return counts.rows, counts.tokens


def _first_rows(shards: Folder, layout: RowLayout, rows: int) -> Iterator[tuple[NDArray, NDArray[np.bool_]]]:
    """Tokens [rows, seq_len + 1] and document starts [rows, seq_len] of a domain's first rows."""
    for batch in _record_batches(shards / FIRST_ROWS, [TOKENS, DOC_START], SAMPLE_BATCH_ROWS):
        yield _arrays(batch.slice(0, rows), layout)
        rows -= batch.num_rows
        if rows <= 0:
            return


def _record_batches(path: Folder, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    with path.open("rb") as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        yield from batches_of(parquet, rows, columns)


def _arrays(batch: pa.RecordBatch, layout: RowLayout) -> tuple[NDArray, NDArray[np.bool_]]:
    """Tokens [rows, seq_len + 1] and document starts [rows, seq_len] of packed rows."""
    tokens = np.frombuffer(b"".join(batch[TOKENS].to_pylist()), layout.token_type)
    lists = batch[DOC_START]
    starts = np.zeros((batch.num_rows, layout.seq_len), np.bool_)
    starts[pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists).to_numpy()] = True
    return tokens.reshape(batch.num_rows, -1), starts

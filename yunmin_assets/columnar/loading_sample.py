"""The same documents and token rows as JSONL and as Parquet, to compare how fast each is read.

    documents.jsonl    one object with all columns per line
    documents.parquet  the same documents, laid out as the *documents* product
    rows.jsonl         {"tokens": [seq_len + 1 ids]} per line
    packed/            the same rows, laid out as the *packed* product

It is a sample of what `parquet_shards` holds: as much from every domain, up to a size that is read in
seconds. The token rows are stored ready to train on both sides: JSONL that had to be tokenised first would
lose by more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.document_shards import (
    SHARD_SCHEMA,
    TOKEN_COUNT_FIELD,
    DocumentShardWriter,
    count_documents,
)
from yunmin_assets.columnar.manifest import PackManifest
from yunmin_assets.columnar.packing import write_shards
from yunmin_assets.columnar.parquet_batches import iterate_batches
from yunmin_assets.columnar.rows import RowCounts, RowLayout
from yunmin_assets.columnar.shard_index import DOC_START
from yunmin_assets.columnar.shard_writer import TOKENS, ShardWriter
from yunmin_assets.documents import DOCUMENT_SCHEMA
from yunmin_assets.snapshot_files import DOCUMENTS, PACKED

DOCUMENTS_JSONL, DOCUMENTS_PARQUET = "documents.jsonl", "documents.parquet"
ROWS_JSONL, SAMPLE_PACKED = "rows.jsonl", "packed"
LARGEST_TEXT_BYTES = 32_000_000
LARGEST_TOKENS = 8_000_000
BATCH_DOCUMENTS, BATCH_ROWS = 256, 1024


@dataclass(frozen=True)
class Sample:
    """How much was taken."""

    documents: int
    text_bytes: int
    rows: int
    tokens: int
    """Tokens of all rows, the one that two rows share counted once."""


def write_sample(shards: Mapping[str, Path], folder: Path) -> Sample:
    """Write a sample of several domains into an existing folder.

    Args:
        shards: domain → a folder written by `write_domain_shards`.

    Raises:
        ValueError: two domains were packed with different layouts.
    """
    documents, text_bytes = _write_documents(shards, folder)
    rows, tokens = _write_rows(shards, folder)
    return Sample(documents, text_bytes, rows, tokens)


def _write_documents(shards: Mapping[str, Path], folder: Path) -> tuple[int, int]:
    """Number of documents, and bytes of their texts."""
    columns = SHARD_SCHEMA.names
    parquet, jsonl = DocumentShardWriter(folder / DOCUMENTS_PARQUET), (folder / DOCUMENTS_JSONL).open("wb")
    with parquet, jsonl:
        for path in shards.values():
            taken = 0
            for batch in _batches(path / DOCUMENTS, columns, BATCH_DOCUMENTS):
                parquet.write(batch, batch[TOKEN_COUNT_FIELD.name].to_numpy())
                documents = batch.select(DOCUMENT_SCHEMA.names).to_pylist()
                jsonl.writelines(orjson.dumps(document) + b"\n" for document in documents)
                taken += pc.sum(pc.binary_length(batch["text"])).as_py() or 0
                if taken * len(shards) >= LARGEST_TEXT_BYTES:
                    break
    counts = count_documents([folder / DOCUMENTS_PARQUET])
    return counts.documents, counts.text_bytes


def _write_rows(shards: Mapping[str, Path], folder: Path) -> tuple[int, int]:
    """Number of rows, and tokens in them."""
    config = _common_layout({domain: path / PACKED / "train" for domain, path in shards.items()})
    (folder / SAMPLE_PACKED).mkdir()
    writer = ShardWriter(folder / SAMPLE_PACKED, config)
    records, rows, documents = [], 0, 0
    with (folder / ROWS_JSONL).open("wb") as jsonl:
        for path in shards.values():
            taken = 0
            for batch in _batches(path / PACKED / "train", [TOKENS, DOC_START], BATCH_ROWS):
                tokens, starts = _arrays(batch, writer.layout)
                jsonl.writelines(orjson.dumps({TOKENS: row}) + b"\n" for row in tokens.tolist())
                records.append(writer.layout.join(tokens, starts))
                documents += int(starts.sum())
                taken += len(tokens)
                if taken * config.seq_len * len(shards) >= LARGEST_TOKENS:
                    break
            rows += taken
    tokens_of_rows = rows * config.seq_len + 1
    counts = RowCounts(documents=documents, document_tokens=tokens_of_rows - documents, rows=rows)
    write_shards(lambda _: iter(records), counts, writer)
    return rows, tokens_of_rows


def _common_layout(packed: Mapping[str, Path]) -> PackConfig:
    """The layout that all domains share.

    Raises:
        ValueError: one differs.
    """
    layouts = {}
    for domain, folder in packed.items():
        manifest = PackManifest.read(folder).model_dump()
        shared = ("seq_len", "vocab_size", "eos_id", "compression")
        layouts[domain] = PackConfig(**{name: manifest[name] for name in shared})
    first, *others = layouts
    for other in others:
        if layouts[other] != layouts[first]:
            raise ValueError(f"{other} is packed in another layout than {first}: write its shards again")
    return layouts[first]


def _batches(folder: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    for path in sorted(folder.glob("*.parquet")):
        yield from iterate_batches(path, columns, rows)


def _arrays(batch: pa.RecordBatch, layout: RowLayout) -> tuple[NDArray, NDArray[np.bool_]]:
    """Tokens [rows, seq_len + 1] and document starts [rows, seq_len] of packed rows."""
    tokens = np.frombuffer(b"".join(batch[TOKENS].to_pylist()), layout.token_type)
    lists = batch[DOC_START]
    starts = np.zeros((batch.num_rows, layout.seq_len), np.bool_)
    starts[pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists).to_numpy()] = True
    return tokens.reshape(batch.num_rows, -1), starts

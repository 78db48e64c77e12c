"""Score a file of documents shard by shard: resumable, and in memory that does not grow with the file.

A shard is a run of documents of about four megabytes of text. Batches never cross it, so its scores are a function
of the shard, the models and the options, and the result is the same whatever was killed on the way. Each shard's
scores are written to a file in the workspace, which is used again if its digest says that it is whole and about these
documents, models and options. A killed process loses what it did for one shard.

Guaranteed: the same bytes for the same file, models and options, on the same kind of processor, for any history of
kills and any number of threads. Not guaranteed: the same last bits on another processor, or on a GPU.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.files import flush, folder_hash
from yunmin_assets.language_model.architecture import default_device
from yunmin_assets.parquet_batches import iterate_batches
from yunmin_assets.progress import Log, silent
from yunmin_assets.pruning.config import ScoringConfig
from yunmin_assets.pruning.halves import Half
from yunmin_assets.pruning.reading import TEXTS_AT_ONCE, row_count
from yunmin_assets.pruning.reference import HalfScorers
from yunmin_assets.pruning.scoring import SCORE_SCHEMA
from yunmin_assets.pruning.scoring_progress import ScoringProgress

SHARD_TEXT_BYTES = 4 << 20
SHARD_DOCUMENTS = 1 << 14
DIGEST_BYTES = 32
WRITE_OPTIONS: dict[str, Any] = {"compression": "zstd", "use_dictionary": False}


def score_file(
    documents: Path,
    models: Mapping[Half, Path],
    target: Path,
    config: ScoringConfig,
    workspace: Path,
    *,
    shard_text_bytes: int = SHARD_TEXT_BYTES,
    log: Log = silent,
) -> None:
    """Score every document of a Parquet file by the model of the half it is not in.

    Args:
        documents: Parquet file with columns `id` and `text`.
        models: by half, the folder of the model trained on it; the same folder for both halves if it knows neither.
        target: becomes a Parquet file of `SCORE_SCHEMA`, a row per document in the same order.
        config: how to score.
        workspace: keeps the scores of finished shards; remove it afterwards.
        shard_text_bytes: a shard ends with the document that brings it to so much text.

    Raises:
        ValueError: A tokenizer does not fit its model.
        FloatingPointError: A document's score is not finite; names the document and the model.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    identity = _identity(models, config)
    scorers, part = HalfScorers(models, config), target.with_name(f"{target.name}.part")
    with (
        ScoringProgress(log, row_count(documents)) as progress,
        pq.ParquetWriter(part, SCORE_SCHEMA, **WRITE_OPTIONS) as writer,
    ):
        for number, shard in enumerate(iterate_shards(documents, shard_text_bytes)):
            file, made_from = workspace / f"shard-{number:06}.scores", _made_from(identity, shard)
            scores = _read(file, made_from, log)
            if scores is not None:
                progress.skip(shard.num_rows)
            else:
                scores = scorers.score(shard, progress.advance)
                _write(scores, file, made_from)
            writer.write_table(scores)
    os.replace(part, target)


def iterate_shards(documents: Path, text_bytes: int = SHARD_TEXT_BYTES) -> Iterator[pa.Table]:
    """The documents (id, text) in runs of at least so many bytes of text, or of 16,384 documents."""
    waiting, size, rows = list[pa.RecordBatch](), 0, 0
    for batch in iterate_batches(documents, ["id", "text"], TEXTS_AT_ONCE):
        waiting.append(batch)
        size += pc.sum(pc.binary_length(batch["text"])).as_py() or 0
        rows += batch.num_rows
        if size >= text_bytes or rows >= SHARD_DOCUMENTS:
            yield pa.Table.from_batches(waiting)
            waiting, size, rows = [], 0, 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _identity(models: Mapping[Half, Path], config: ScoringConfig) -> bytes:
    """What decides the scores besides the documents."""
    hashes = {folder: folder_hash(folder) for folder in set(models.values())}
    weights = " ".join(f"{half} {hashes[models[half]]}" for half in sorted(models))
    return f"{config.scoring_options()} {weights} {default_device().type}".encode()


def _made_from(identity: bytes, shard: pa.Table) -> bytes:
    digest = hashlib.blake2b(identity)
    for column in ("id", "text"):
        for value in shard[column]:
            content = value.as_py().encode()
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()


def _read(file: Path, made_from: bytes, log: Log) -> pa.Table | None:
    """The scores in a file; None if there are none, or it does not hold what `_write` would write now."""
    if not file.exists():
        return None
    content = file.read_bytes()
    if content[:DIGEST_BYTES] != _digest(made_from, content[DIGEST_BYTES:]):
        log(f"scoring again what {file} should hold: it is damaged, or about something else")
        return None
    return pq.read_table(pa.BufferReader(content[DIGEST_BYTES:]))


def _write(scores: pa.Table, file: Path, made_from: bytes) -> None:
    """A digest over what the scores are made from and the rest of the file; then Parquet."""
    buffer = io.BytesIO()
    pq.write_table(scores, buffer, **WRITE_OPTIONS)
    part = file.with_suffix(".part")
    part.write_bytes(_digest(made_from, buffer.getvalue()) + buffer.getvalue())
    flush(part)
    os.replace(part, file)
    flush(file.parent)


def _digest(made_from: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(made_from + content, digest_size=DIGEST_BYTES).digest()

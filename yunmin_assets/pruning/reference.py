"""Reference models by halves: each document is scored by a model that never saw it.

A hash of its id puts every document into half `a` or `b`. The model trained on one half scores the other half
(cross-scoring), so that a document's perplexity measures the document and not the model's memory of it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa

from yunmin_assets.language_model.pretraining import train_from_scratch
from yunmin_assets.language_model.training import Batches, TrainingResult
from yunmin_assets.progress import Log, silent
from yunmin_assets.pruning.config import ReferenceConfig
from yunmin_assets.pruning.scoring import SCORE_SCHEMA, score_documents

Half = Literal["a", "b"]
SCORED_BY: dict[Half, Half] = {"a": "b", "b": "a"}
HASH_PURPOSE = b"reference-half"  # keeps the halves independent of every other hash of the id


def half_of(document_id: str) -> Half:
    """The half of the corpus a document belongs to, by a hash of its id; stable across runs and machines."""
    digest = hashlib.blake2b(document_id.encode(), key=HASH_PURPOSE, digest_size=1).digest()
    return "a" if digest[0] % 2 == 0 else "b"


def is_in_half(half: Half, document_id: str) -> bool:
    """Whether a document belongs to a half."""
    return half_of(document_id) == half


def train_reference_model(
    half: Half,
    batches: Batches,
    config: ReferenceConfig,
    tokenizer_dir: Path,
    out_dir: Path,
    checkpoint_dir: Path,
    *,
    log: Log = silent,
) -> TrainingResult:
    """Train the model of one half into `out_dir/<half>`, which then holds model and tokenizer.

    Args:
        half: The half that `batches` was packed from.
        batches: Packed batches of that half's documents, made with the tokenizer of `tokenizer_dir`.
        config: Architecture and training options, the same for both halves.
        checkpoint_dir: A subfolder per half keeps the state of an interrupted run.
    """
    return train_from_scratch(
        batches, config.model, config.training, tokenizer_dir, out_dir / half, checkpoint_dir / half, log=log
    )


def cross_score(
    documents: pa.Table,
    models: Mapping[Half, Path],
    token_budget: int = 4096,
    *,
    max_length: int = 1024,
    log: Log = silent,
) -> pa.Table:
    """Score each document by the model that was trained on the half it is not in.

    Args:
        documents: Columns `id` and `text`.
        models: Folder of the reference model trained on each half.

    Returns:
        One row per document in input order, as `score_documents`.
    """
    halves = [half_of(document_id) for document_id in documents.column("id").to_pylist()]
    scores, positions = [SCORE_SCHEMA.empty_table()], []
    for half, scorer in SCORED_BY.items():
        rows = [row for row, member in enumerate(halves) if member == half]
        if not rows:
            continue
        log(f"half {half}: {len(rows):,} documents, scored by the model of half {scorer}")
        scores.append(
            score_documents(
                documents.take(rows), models[scorer], token_budget, max_length=max_length, log=log
            )
        )
        positions += rows
    order = sorted(range(len(positions)), key=positions.__getitem__)
    return pa.concat_tables(scores).take(pa.array(order, pa.int64())).combine_chunks()

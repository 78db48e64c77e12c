"""Reference models: each document is scored by a model that never saw it.

The model trained on one half of the documents scores the other half (cross-scoring), so that a document's
perplexity measures the document and not the model's memory of it. A given checkpoint scores both halves; whether
it has seen them its owner knows.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from yunmin_assets.language_model.architecture import load_model
from yunmin_assets.language_model.pretraining import train_from_scratch
from yunmin_assets.language_model.tokenizer import copy_tokenizer, load_tokenizer, vocabulary_size
from yunmin_assets.language_model.training import Batches, TrainingResult
from yunmin_assets.progress import Log, silent
from yunmin_assets.pruning.config import ReferenceConfig, ScoringConfig
from yunmin_assets.pruning.halves import SCORED_BY, Half, half_of
from yunmin_assets.pruning.reference_folders import GIVEN
from yunmin_assets.pruning.scoring import SCORE_SCHEMA, Advance, Scorer
from yunmin_assets.pruning.scoring_progress import ScoringProgress


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


def take_over_reference(source: Path, out_dir: Path) -> Path:
    """Copy a checkpoint and its own tokenizer into `out_dir/given`, and return that."""
    target = out_dir / GIVEN
    target.mkdir(parents=True)
    for file in sorted([*source.glob("*.json"), *source.glob("*.safetensors")]):
        shutil.copyfile(file, target / file.name)
    copy_tokenizer(source, target)
    return target


def describe_reference(folder: Path) -> dict[str, int | str]:
    """Architecture, parameters and vocabulary of a reference model.

    Raises:
        ValueError: Its weights do not fit its architecture, or its tokenizer has more tokens than it embeds.
    """
    model, tokens = load_model(folder), vocabulary_size(load_tokenizer(folder))
    if tokens > model.config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer needs {tokens} embeddings, the model has {model.config.vocab_size}"
        )
    return {
        "architecture": str(model.config.model_type),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocab_size": int(model.config.vocab_size),
    }


class HalfScorers:
    """Both reference models; one that scores both halves is loaded once."""

    def __init__(self, models: Mapping[Half, Path], config: ScoringConfig) -> None:
        scorers = {folder: Scorer(folder, config) for folder in models.values()}
        self._of_half = {half: scorers[models[other]] for half, other in SCORED_BY.items()}

    def score(self, documents: pa.Table, advance: Advance) -> pa.Table:
        """Score each document of a table by the model of the other half; see `cross_score`."""
        chosen = [self._of_half[half_of(identifier)] for identifier in documents["id"].to_pylist()]
        tables, positions = [SCORE_SCHEMA.empty_table()], [np.empty(0, np.int64)]
        for scorer in dict.fromkeys(self._of_half.values()):
            rows = np.flatnonzero([one is scorer for one in chosen])
            if len(rows):
                tables.append(scorer.score(documents.take(pa.array(rows)), advance))
                positions.append(rows)
        order = np.argsort(np.concatenate(positions))
        return pa.concat_tables(tables).take(pa.array(order)).combine_chunks()


def cross_score(
    documents: pa.Table,
    models: Mapping[Half, Path],
    config: ScoringConfig | None = None,
    *,
    log: Log = silent,
) -> pa.Table:
    """Score each document by the model that was trained on the half it is not in.

    Args:
        documents: Columns `id` and `text`.
        models: Folder of the reference model trained on each half.
        config: How to score.

    Returns:
        One row per document in input order, as `score_documents`.
    """
    with ScoringProgress(log, documents.num_rows) as progress:
        return HalfScorers(models, config or ScoringConfig()).score(documents, progress.advance)

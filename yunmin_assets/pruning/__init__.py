"""Perplexity pruning with small reference models (arXiv 2405.20541)."""

from typing import TYPE_CHECKING

from yunmin_assets.lazy_exports import lazy_exports
from yunmin_assets.pruning.config import PruningConfig, ReferenceConfig, ScoringConfig, StudyConfig

if TYPE_CHECKING:
    from yunmin_assets.pruning.halves import half_of
    from yunmin_assets.pruning.reference import cross_score, train_reference_model
    from yunmin_assets.pruning.scoring import SCORE_SCHEMA, score_documents
    from yunmin_assets.pruning.selection import Selection, select_documents
    from yunmin_assets.pruning.shards import score_file
    from yunmin_assets.pruning.study import StudyInputs, run_study

_MODULE_OF = {
    "SCORE_SCHEMA": "scoring",
    "Selection": "selection",
    "StudyInputs": "study",
    "cross_score": "reference",
    "half_of": "halves",
    "run_study": "study",
    "score_documents": "scoring",
    "score_file": "shards",
    "select_documents": "selection",
    "train_reference_model": "reference",
}

__all__ = [
    "SCORE_SCHEMA",
    "PruningConfig",
    "ReferenceConfig",
    "ScoringConfig",
    "Selection",
    "StudyConfig",
    "StudyInputs",
    "cross_score",
    "half_of",
    "run_study",
    "score_documents",
    "score_file",
    "select_documents",
    "train_reference_model",
]

__getattr__ = lazy_exports(__name__, _MODULE_OF)

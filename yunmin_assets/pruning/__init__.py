"""Perplexity pruning with small reference models (arXiv 2405.20541)."""

from typing import TYPE_CHECKING

from yunmin_assets.lazy_exports import lazy_exports
from yunmin_assets.pruning.config import PruningConfig, ReferenceConfig

if TYPE_CHECKING:
    from yunmin_assets.pruning.reference import cross_score, half_of, train_reference_model
    from yunmin_assets.pruning.scoring import SCORE_SCHEMA, score_documents
    from yunmin_assets.pruning.selection import Selection, select_documents

_MODULE_OF = {
    "SCORE_SCHEMA": "scoring",
    "Selection": "selection",
    "cross_score": "reference",
    "half_of": "reference",
    "score_documents": "scoring",
    "select_documents": "selection",
    "train_reference_model": "reference",
}

__all__ = [
    "SCORE_SCHEMA",
    "PruningConfig",
    "ReferenceConfig",
    "Selection",
    "cross_score",
    "half_of",
    "score_documents",
    "select_documents",
    "train_reference_model",
]

__getattr__ = lazy_exports(__name__, _MODULE_OF)

"""Evaluation: perplexity with paired statistics, and the report that tells a stranger what was achieved.

    score_documents → paired_bootstrap → Report → write_report

The names below are imported on first use, so that reading a configuration stays cheap.
"""

from typing import TYPE_CHECKING

from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from yunmin_assets.evaluation.model import (
        CandidateRow,
        CostRow,
        DuplicateRecall,
        ExpectationRow,
        FunnelRow,
        Generation,
        Measurement,
        PerplexityCell,
        Report,
        owner_expectations,
    )
    from yunmin_assets.evaluation.report import headline, write_report

__all__ = [
    "CandidateRow",
    "CostRow",
    "DuplicateRecall",
    "EvaluationConfig",
    "ExpectationRow",
    "FunnelRow",
    "Generation",
    "Measurement",
    "PerplexityCell",
    "Report",
    "headline",
    "owner_expectations",
    "write_report",
]

_MODULE_OF = {
    "CandidateRow": "model",
    "CostRow": "model",
    "DuplicateRecall": "model",
    "ExpectationRow": "model",
    "FunnelRow": "model",
    "Generation": "model",
    "Measurement": "model",
    "PerplexityCell": "model",
    "Report": "model",
    "headline": "report",
    "owner_expectations": "model",
    "write_report": "report",
}

__getattr__ = lazy_exports(__name__, _MODULE_OF)

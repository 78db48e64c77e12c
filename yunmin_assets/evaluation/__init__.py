"""Evaluation: perplexity with paired statistics, and the report that tells a stranger what was achieved.

    score_documents → bootstrap_perplexity, paired_difference, judge → Report → write_report

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
    from yunmin_assets.evaluation.statistics import (
        PairedDifference,
        PerplexityInterval,
        bootstrap_perplexity,
        holm,
        judge,
        paired_difference,
        verdict,
    )

__all__ = [
    "CandidateRow",
    "CostRow",
    "DuplicateRecall",
    "EvaluationConfig",
    "ExpectationRow",
    "FunnelRow",
    "Generation",
    "Measurement",
    "PairedDifference",
    "PerplexityCell",
    "PerplexityInterval",
    "Report",
    "bootstrap_perplexity",
    "headline",
    "holm",
    "judge",
    "owner_expectations",
    "paired_difference",
    "verdict",
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
    "PairedDifference": "statistics",
    "PerplexityCell": "model",
    "PerplexityInterval": "statistics",
    "Report": "model",
    "bootstrap_perplexity": "statistics",
    "headline": "report",
    "holm": "statistics",
    "judge": "statistics",
    "owner_expectations": "model",
    "paired_difference": "statistics",
    "verdict": "statistics",
    "write_report": "report",
}

__getattr__ = lazy_exports(__name__, _MODULE_OF)

"""Evaluation: is a model better than another, by how much, and would the next run say so again?

    read_questions → evaluate_models → Findings → Report → write_report, write_history

Or one measurement alone: `measure_perplexity`, `score_texts`, `score_generations`, `evaluate_choices`,
`check_contamination`; and `write_blind_sheet` for a person. `keep_in` keeps what takes long. The names below
are imported on first use, so that reading a configuration stays cheap.
"""

from typing import TYPE_CHECKING

from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from yunmin_assets.evaluation.benchmark_files import BenchmarkItems, check_benchmark, find_benchmarks
    from yunmin_assets.evaluation.blind_sheet import (
        BlindKey,
        HumanVerdict,
        Pair,
        read_key,
        read_ratings,
        write_blind_sheet,
    )
    from yunmin_assets.evaluation.choice_statistics import ChoiceComparison, ChoiceResult, compare_choices
    from yunmin_assets.evaluation.contamination import ContaminatedItem, Contamination, check_contamination
    from yunmin_assets.evaluation.evaluate import Findings, Models, Questions, evaluate_models, read_questions
    from yunmin_assets.evaluation.generations import Prompt, read_prompts, write_continuations
    from yunmin_assets.evaluation.history import Entry, read_history, write_history
    from yunmin_assets.evaluation.kept_results import keep_in
    from yunmin_assets.evaluation.measure import choose_documents, measure_perplexity
    from yunmin_assets.evaluation.model import (
        CandidateRow,
        ChangeRow,
        ChoiceRow,
        ContaminatedRow,
        ContaminationRow,
        CostRow,
        CriterionRow,
        Difference,
        DuplicateRecall,
        ExpectationRow,
        FunnelRow,
        Generation,
        HumanRow,
        Measurement,
        PerplexityCell,
        Report,
        TextScoreRow,
        owner_expectations,
    )
    from yunmin_assets.evaluation.multiple_choice import evaluate_choices
    from yunmin_assets.evaluation.regression import compare_with_last, write_losses
    from yunmin_assets.evaluation.report import headline, write_report
    from yunmin_assets.evaluation.scoring_config import ScoringRules, load_scoring_rules
    from yunmin_assets.evaluation.scoring_rules import (
        CriterionComparison,
        RuleScores,
        compare_criteria,
        score_generations,
    )
    from yunmin_assets.evaluation.text_metrics import TextScores, score_texts
    from yunmin_assets.evaluation.text_rules import Answer

__all__ = [
    "Answer",
    "BenchmarkItems",
    "BlindKey",
    "CandidateRow",
    "ChangeRow",
    "ChoiceComparison",
    "ChoiceResult",
    "ChoiceRow",
    "ContaminatedItem",
    "ContaminatedRow",
    "Contamination",
    "ContaminationRow",
    "CostRow",
    "CriterionComparison",
    "CriterionRow",
    "Difference",
    "DuplicateRecall",
    "Entry",
    "EvaluationConfig",
    "ExpectationRow",
    "Findings",
    "FunnelRow",
    "Generation",
    "HumanRow",
    "HumanVerdict",
    "Measurement",
    "Models",
    "Pair",
    "PerplexityCell",
    "Prompt",
    "Questions",
    "Report",
    "RuleScores",
    "ScoringRules",
    "TextScoreRow",
    "TextScores",
    "check_benchmark",
    "check_contamination",
    "choose_documents",
    "compare_choices",
    "compare_criteria",
    "compare_with_last",
    "evaluate_choices",
    "evaluate_models",
    "find_benchmarks",
    "headline",
    "keep_in",
    "load_scoring_rules",
    "measure_perplexity",
    "owner_expectations",
    "read_history",
    "read_key",
    "read_prompts",
    "read_questions",
    "read_ratings",
    "score_generations",
    "score_texts",
    "write_blind_sheet",
    "write_continuations",
    "write_history",
    "write_losses",
    "write_report",
]

_MODULE_OF = {
    "Answer": "text_rules",
    "BenchmarkItems": "benchmark_files",
    "BlindKey": "blind_sheet",
    "CandidateRow": "model",
    "ChangeRow": "model",
    "ChoiceComparison": "choice_statistics",
    "ChoiceResult": "choice_statistics",
    "ChoiceRow": "model",
    "ContaminatedItem": "contamination",
    "ContaminatedRow": "model",
    "Contamination": "contamination",
    "ContaminationRow": "model",
    "CostRow": "model",
    "CriterionComparison": "scoring_rules",
    "CriterionRow": "model",
    "Difference": "model",
    "DuplicateRecall": "model",
    "Entry": "history",
    "ExpectationRow": "model",
    "Findings": "evaluate",
    "FunnelRow": "model",
    "Generation": "model",
    "HumanRow": "model",
    "HumanVerdict": "blind_sheet",
    "Measurement": "model",
    "Models": "evaluate",
    "Pair": "blind_sheet",
    "PerplexityCell": "model",
    "Prompt": "generations",
    "Questions": "evaluate",
    "Report": "model",
    "RuleScores": "scoring_rules",
    "ScoringRules": "scoring_config",
    "TextScoreRow": "model",
    "TextScores": "text_metrics",
    "check_benchmark": "benchmark_files",
    "check_contamination": "contamination",
    "choose_documents": "measure",
    "compare_choices": "choice_statistics",
    "compare_criteria": "scoring_rules",
    "compare_with_last": "regression",
    "evaluate_choices": "multiple_choice",
    "evaluate_models": "evaluate",
    "find_benchmarks": "benchmark_files",
    "headline": "report",
    "keep_in": "kept_results",
    "load_scoring_rules": "scoring_config",
    "measure_perplexity": "measure",
    "owner_expectations": "model",
    "read_history": "history",
    "read_key": "blind_sheet",
    "read_prompts": "generations",
    "read_questions": "evaluate",
    "read_ratings": "blind_sheet",
    "score_generations": "scoring_rules",
    "score_texts": "text_metrics",
    "write_blind_sheet": "blind_sheet",
    "write_continuations": "generations",
    "write_history": "history",
    "write_losses": "regression",
    "write_report": "report",
}

__getattr__ = lazy_exports(__name__, _MODULE_OF)

"""Is a model worse at multiple choice than in the last report? Item by item, on what both asked in the same way.

An item is the same if its text, its right answer and the way of asking (the task's prompt and choices) are: a mended
prompt makes no regression. Only the items tell something on which the model was right in just one of the two reports:
McNemar's exact test, corrected over the benchmarks (Holm).
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from yunmin_assets.evaluation.choice_statistics import difference_interval, mcnemar
from yunmin_assets.evaluation.choices import ANSWERS_FILE, ANSWERS_SCHEMA
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.model import ChoiceChangeRow
from yunmin_assets.paired_bootstrap import holm, verdict
from yunmin_assets.progress import Log, silent

Outcomes = Counter[tuple[bool, bool]]
"""How many items there are by whether the model was right then, and now."""


def compare_answers_with_last(
    current: pa.Table, last: Path, model: str, config: EvaluationConfig, *, log: Log = silent
) -> list[ChoiceChangeRow]:
    """Compare a model with itself in the last report.

    Args:
        current: answers of this report (`ANSWERS_SCHEMA`).
        last: folder of the last report; one without answers that can be read has nothing to compare with.
        model: name of the model in both.
        config: for its confidence.
        log: says what could not be compared, and why.

    Returns:
        One row per benchmark of which both asked some items in the same way; above 0 the model is better now.
    """
    answers = _read_answers(last / ANSWERS_FILE, log)
    if answers is None:
        return []
    before, now = _by_benchmark(answers, model), _by_benchmark(current, model)
    outcomes = {name: _outcomes(before.get(name, {}), items) for name, items in now.items()}
    for name in [name for name, counts in outcomes.items() if not counts]:
        log(f"{name}: {last} asked none of its items in the same way, nothing to compare")
        del outcomes[name]
    p_values = holm([mcnemar(counts[True, False], counts[False, True]) for counts in outcomes.values()])
    return [
        _change(name, counts, p_value, config.confidence)
        for (name, counts), p_value in zip(outcomes.items(), p_values, strict=True)
    ]


def _read_answers(path: Path, log: Log) -> pa.Table | None:
    """The answers beside an older report, if they are stored as they are now."""
    try:
        answers = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        log(f"{path} cannot be read, so no answers are compared: {error}")
        return None
    if not answers.schema.equals(ANSWERS_SCHEMA):
        log(f"{path} has other columns ({', '.join(answers.column_names)}), so no answers are compared")
        return None
    return answers


def _by_benchmark(answers: pa.Table, model: str) -> Mapping[str, Mapping[str, bool]]:
    """By benchmark and hash of the item, whether the model was right."""
    found: dict[str, dict[str, bool]] = {}
    for row in answers.to_pylist():
        if row["model"] == model:
            found.setdefault(row["benchmark"], {})[row["item"]] = row["correct"]
    return found


def _outcomes(before: Mapping[str, bool], now: Mapping[str, bool]) -> Outcomes:
    return Counter((before[item], is_right) for item, is_right in now.items() if item in before)


def _change(benchmark: str, outcomes: Outcomes, p_value: float, confidence: float) -> ChoiceChangeRow:
    items, both = outcomes.total(), outcomes[True, True]
    only_before, only_now = outcomes[True, False], outcomes[False, True]
    low, high = difference_interval(only_before, only_now, items, confidence)
    difference = (only_now - only_before) / items
    return ChoiceChangeRow(
        benchmark=benchmark,
        items=items,
        before=(both + only_before) / items,
        now=(both + only_now) / items,
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        verdict=verdict(-difference, p_value, confidence),  # which expects a loss: less is better
    )

"""Multiple choice and contamination as rows of the report, and every answer for the next report to compare with."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from yunmin_assets.evaluation.benchmark_files import (
    BenchmarkItems,
    LeftOut,
    check_benchmark,
    find_benchmarks,
    item_hashes,
)
from yunmin_assets.evaluation.choice_statistics import ChoiceComparison, ChoiceResult, compare_choices
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.contamination import Contamination, check_contamination
from yunmin_assets.evaluation.kept_results import Keep, keep_nothing
from yunmin_assets.evaluation.model import BASE, ChoiceRow, ContaminatedRow, ContaminationRow, Difference
from yunmin_assets.evaluation.multiple_choice import evaluate_choices
from yunmin_assets.progress import Log, silent

MOSTLY = 0.5
"""Share of an item's n-grams from which on it counts as mostly found: single ones are often common phrases."""
WORST_KEPT = 5
"""Items kept with an excerpt where fewer are mostly found."""
EXCERPT_CHARACTERS = 200

ANSWERS_FILE = "answers.parquet"
ANSWERS_SCHEMA = pa.schema(
    [("benchmark", pa.string()), ("model", pa.string()), ("item", pa.string()), ("correct", pa.bool_())]
)
"""`item` is the hash of what was asked and what is right (`item_hashes`)."""


def read_benchmarks(folder: Path, *, log: Log = silent) -> list[BenchmarkItems]:
    """Every benchmark of a folder, judged before any model is loaded; what is passed over goes to the log.

    Raises:
        FileNotFoundError, ValueError: see `find_benchmarks` and `check_benchmark`; or the folder holds none.
    """
    found = [check_benchmark(file) for file in find_benchmarks(folder, log=log).values()]
    if not found:
        raise ValueError(
            f"{folder} holds no benchmark: name files after their task, such as kobest_copa.jsonl, or leave "
            "evaluation.benchmarks out"
        )
    return found


def answer_benchmarks(
    models: Mapping[str, Path],
    benchmarks: Sequence[BenchmarkItems],
    config: EvaluationConfig,
    *,
    keep: Keep = keep_nothing,
    log: Log = silent,
) -> tuple[list[ChoiceRow], pa.Table]:
    """Let every model answer every benchmark (`keep` takes the answers), and compare with the base item by item.

    Returns:
        The rows of the report, and every answer (`ANSWERS_SCHEMA`); no model is loaded when nothing is asked.
    """
    if not benchmarks:
        return [], ANSWERS_SCHEMA.empty_table()
    results = {
        name: evaluate_choices(
            folder,
            benchmarks,
            model_name=name,
            limit=config.benchmark_items,
            confidence=config.confidence,
            keep=keep,
            log=log,
        )
        for name, folder in models.items()
    }
    compared = {
        name: {each.benchmark: each for each in compare_choices(results[BASE], of_model, config.confidence)}
        for name, of_model in results.items()
        if name != BASE
    }
    rows = [
        _choice_row(result, compared.get(name, {}).get(result.benchmark))
        for of_benchmark in zip(*results.values(), strict=True)
        for name, result in zip(results, of_benchmark, strict=True)
    ]
    return rows, _answers(benchmarks, results.values())


def write_answers(answers: pa.Table, folder: Path) -> None:
    """Write whether each model was right on each item beside a report."""
    pq.write_table(answers, folder / ANSWERS_FILE, compression="zstd")


def _answers(benchmarks: Sequence[BenchmarkItems], results: Iterable[Sequence[ChoiceResult]]) -> pa.Table:
    hashes = {benchmark.file.name: item_hashes(benchmark) for benchmark in benchmarks}
    rows = [
        (result.benchmark, result.model, hashes[result.benchmark][place], answer.is_right)
        for of_model in results
        for result in of_model
        for place, answer in result.answers.items()
    ]
    return pa.Table.from_pylist(
        [dict(zip(ANSWERS_SCHEMA.names, row, strict=True)) for row in rows], ANSWERS_SCHEMA
    )


def contamination_rows(
    evaluation: Mapping[str, Iterable[tuple[str, str]]],
    training_files: Sequence[Path],
    config: EvaluationConfig,
    *,
    log: Log = silent,
) -> list[ContaminationRow]:
    """How much of each evaluation set stands in the training text.

    Args:
        evaluation: by name of the set, (item id, text).
        training_files: Parquet files of documents.
    """
    found = check_contamination(evaluation, training_files, ngram=config.contamination_ngram, log=log)
    return [_contamination_row(name, each) for name, each in found.items()]


def _choice_row(result: ChoiceResult, against_base: ChoiceComparison | None) -> ChoiceRow:
    return ChoiceRow(
        benchmark=result.benchmark,
        model=result.model,
        metric=result.metric,
        items=result.items,
        items_in_file=result.items_in_file,
        left_out=_reasons(result.left_out),
        unanswered=_reasons(result.unanswered),
        accuracy=result.accuracy,
        low=result.low,
        high=result.high,
        macro_f1=result.macro_f1,
        chance=result.chance,
        constant=result.constant,
        against_base=None
        if against_base is None
        else Difference(
            difference=against_base.difference,
            low=against_base.low,
            high=against_base.high,
            p_value=against_base.p_value,
            verdict=against_base.verdict,
        ),
    )


def _reasons(items: Sequence[LeftOut]) -> tuple[str, ...]:
    return tuple(f"item {each.item}: {each.reason}" for each in items)


def _contamination_row(name: str, found: Contamination) -> ContaminationRow:
    by_share = sorted(found.contaminated, key=lambda item: -item.share)
    mostly = sum(item.share >= MOSTLY for item in by_share)
    return ContaminationRow(
        name=name,
        ngram=found.ngram,
        items=found.items,
        too_short=len(found.too_short),
        too_short_items=found.too_short,
        any_share=found.share(),
        mostly_share=found.share(at_least=MOSTLY),
        worst=tuple(
            ContaminatedRow(
                item=item.item,
                share=item.share,
                domain=item.domain,
                document=item.document,
                excerpt=item.excerpt[:EXCERPT_CHARACTERS],
            )
            for item in by_share[: max(mostly, WORST_KEPT)]
        ),
    )

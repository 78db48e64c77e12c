"""All measurements of one report, from folders of models and files of text.

What is asked is read and judged first, so that a broken file is found before a model is loaded. Each measurement is one
module; this one only puts them in a row. What needs a model is kept unit by unit, so that a killed evaluation goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from yunmin_assets.documents import SYNTHETIC_SOURCE, read_documents
from yunmin_assets.evaluation.benchmark_files import BenchmarkItems
from yunmin_assets.evaluation.blind_sheet import write_blind_sheet
from yunmin_assets.evaluation.choices import (
    answer_benchmarks,
    contamination_rows,
    read_benchmarks,
    write_answers,
)
from yunmin_assets.evaluation.collect import software_versions
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.generations import (
    Prompt,
    blind_pairs,
    judge_by_rules,
    read_prompts,
    score_against_references,
    side_by_side,
    write_continuations,
)
from yunmin_assets.evaluation.kept_results import keep_in
from yunmin_assets.evaluation.measure import choose_documents, measure_perplexity
from yunmin_assets.evaluation.model import (
    BASE,
    JOINT,
    MERGED,
    MINI,
    ChoiceRow,
    ContaminationRow,
    CriterionRow,
    Generation,
    PerplexityCell,
    TextScoreRow,
)
from yunmin_assets.evaluation.regression import write_losses
from yunmin_assets.evaluation.scoring_config import ScoringRules, load_scoring_rules
from yunmin_assets.language_model.architecture import default_device
from yunmin_assets.progress import Log, silent

PROMPTS = "prompts"
"""Name of the prompts among the sets whose contamination is checked."""


@dataclass(frozen=True)
class Models:
    """Folders of the models a report compares."""

    base: Path
    merged: Path
    minis: Mapping[str, Path]
    """By domain: the base with that domain's difference alone."""
    joint: Path | None
    """The control trained on all domains together, where there is one."""

    @property
    def for_all_domains(self) -> dict[str, Path]:
        """The models that are the same for every domain, by name."""
        control = {} if self.joint is None else {JOINT: self.joint}
        return {BASE: self.base, MERGED: self.merged, **control}


@dataclass(frozen=True)
class Questions:
    """What the models are asked besides the test documents."""

    prompts: Sequence[Prompt]
    rules: ScoringRules
    benchmarks: Sequence[BenchmarkItems]


@dataclass(frozen=True)
class Findings:
    """What was measured."""

    cells: Sequence[PerplexityCell]
    losses: pa.Table
    answers: pa.Table
    generations: Sequence[Generation]
    criteria: Sequence[CriterionRow]
    text_scores: Sequence[TextScoreRow]
    choices: Sequence[ChoiceRow]
    contamination: Sequence[ContaminationRow]
    synthetic: bool


def read_questions(prompts: Path, rules: Path, benchmarks: Path | None, *, log: Log = silent) -> Questions:
    """Read and judge everything that is asked.

    Raises:
        FileNotFoundError, ValueError: something is absent or broken; names file and place.
    """
    questions = Questions(
        read_prompts(prompts),
        load_scoring_rules(rules),
        read_benchmarks(benchmarks, log=log) if benchmarks else [],
    )
    for prompt in questions.prompts:
        if prompt.kind not in questions.rules.kinds:
            known = ", ".join(questions.rules.kinds)
            raise ValueError(
                f"{prompts}: prompt {prompt.id} is of kind {prompt.kind!r}, {rules} knows {known}"
            )
    return questions


def evaluate_models(
    models: Models,
    test_files: Mapping[str, Path],
    training_files: Sequence[Path],
    questions: Questions,
    config: EvaluationConfig,
    out_dir: Path,
    work_dir: Path,
    *,
    log: Log = silent,
) -> Findings:
    """Measure all models, or go on with what a killed call has measured.

    Args:
        models: what to compare.
        test_files: by domain, the test split.
        training_files: every document that a model may have been trained on.
        questions: as `read_questions` gives them.
        config: sizes, seeds and confidence.
        out_dir: receives every document's loss, every item's answer, the blind sheet and its key.
        work_dir: keeps what is measured, for the next call with exactly these arguments, libraries and device
            (`kept_results`).
        log: progress; names what was taken over.
    """
    keep = keep_in(work_dir, software_versions() | {"device": str(default_device())}, log=log)
    test_sets = {
        domain: choose_documents(read_documents([path]), config.documents_per_domain)
        for domain, path in test_files.items()
    }
    everywhere = {name: dict.fromkeys(test_sets, folder) for name, folder in models.for_all_domains.items()}
    by_domain = {**everywhere, MINI: models.minis}
    cells, losses = measure_perplexity(test_sets, by_domain, config, keep=keep, log=log)
    prompts, compared = questions.prompts, {BASE: models.base, MERGED: models.merged}
    written = write_continuations(compared, prompts, config, keep=keep, log=log)
    write_blind_sheet(out_dir, blind_pairs(prompts, written), questions.rules, config.seed)
    choices, answers = answer_benchmarks(
        models.for_all_domains, questions.benchmarks, config, keep=keep, log=log
    )
    write_losses(losses, out_dir, config)
    write_answers(answers, out_dir)
    return Findings(
        cells=cells,
        losses=losses,
        answers=answers,
        generations=side_by_side(prompts, written),
        criteria=judge_by_rules(prompts, written, questions.rules, config),
        text_scores=score_against_references(prompts, written),
        choices=choices,
        contamination=contamination_rows(_asked(questions, test_sets), training_files, config, log=log),
        synthetic=_is_synthetic(test_sets),
    )


def _asked(questions: Questions, test_sets: Mapping[str, pa.Table]) -> dict[str, list[tuple[str, str]]]:
    """(id, text) of everything that a model is measured on, by set."""
    sets = {
        f"test documents, {domain}": list(
            zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True)
        )
        for domain, documents in test_sets.items()
    }
    sets[PROMPTS] = [
        (prompt.id, "\n".join(filter(None, (prompt.prompt, prompt.reference))))
        for prompt in questions.prompts
    ]
    for benchmark in questions.benchmarks:
        sets[benchmark.file.name] = [(str(item.item), item.text) for item in benchmark.items]
    return sets


def _is_synthetic(test_sets: Mapping[str, pa.Table]) -> bool:
    return any(
        str(source).startswith(SYNTHETIC_SOURCE)
        for table in test_sets.values()
        for source in table["source"].to_pylist()
    )

"""Score generated texts by computable rules, and compare two models prompt by prompt.

A text that is empty, or that a model could not write, scores 0 on every rule and says so: it counts, by name.
A criterion is the weighted geometric mean of its rules, so no strength makes up for a complete failure: a loop is not
informative because it is long. One rule looks across prompts: a text that answers everything answers nothing.

Two models are compared on the same prompts by paired bootstrap over prompts (`paired_bootstrap`), with Holm's
correction over the criteria.

The rules find what is broken. They do not know what is true or beautiful: for that there is the blind sheet.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from yunmin_assets.evaluation.scoring_config import Criterion, RuleName, ScoringRules
from yunmin_assets.evaluation.text_rules import Answer, Measure, measure, measure_sameness, written
from yunmin_assets.paired_bootstrap import Verdict, judge, paired_difference

NOTHING_WRITTEN = "nothing was written"
FEWEST_PROMPTS = 20
"""Prompts below which no difference is claimed: a bootstrap over a handful is far too sure of itself."""


@dataclass(frozen=True)
class RuleScore:
    """One rule's judgement of one text."""

    score: float
    """0 to 1."""
    reason: str


@dataclass(frozen=True)
class RuleScores:
    """All judgements of one text."""

    prompt_id: str
    kind: str
    rules: Mapping[RuleName, RuleScore]
    """Without the rules that have nothing to say about this text."""
    criteria: Mapping[str, float]
    """0 to 1 for each criterion."""
    problem: str | None = None
    """Why there was nothing to judge; all scores are 0 then."""


@dataclass(frozen=True)
class CriterionComparison:
    """One criterion, model against base, on the same prompts. Scores are means over prompts, 0 to 1."""

    criterion: str
    prompts: int
    base: float
    model: float
    difference: float
    """Model minus base; above 0 the model is better."""
    low: float
    high: float
    p_value: float
    """After Holm's correction over the criteria."""
    verdict: Verdict


def score_generations(generations: Sequence[Answer], rules: ScoringRules) -> list[RuleScores]:
    """Judge each text, in order.

    Args:
        generations: All answers of one model in one decoding: they are compared with each other.
        rules: What is judged, and how.

    Raises:
        ValueError: A prompt is of a kind that the rules do not know; the message names both.
    """
    for answer in generations:
        if answer.kind not in rules.kinds:
            raise ValueError(
                f"prompt {answer.prompt_id} is of kind {answer.kind!r}, which is not among the kinds of the "
                f"scoring rules: {', '.join(rules.kinds)}"
            )
    sameness = measure_sameness(generations)
    return [_score(answer, same, rules) for answer, same in zip(generations, sameness, strict=True)]


def compare_criteria(
    base: Sequence[RuleScores],
    model: Sequence[RuleScores],
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[CriterionComparison]:
    """Compare a model with the base on every criterion; fewer than `FEWEST_PROMPTS` prompts get no verdict.

    Args:
        base: Scores of the base.
        model: Scores of the model on the same prompts in the same order.
        samples: Bootstrap draws over prompts.
        confidence: Probability mass of the intervals.
        seed: The same seed draws the same prompts.

    Raises:
        ValueError: The two are not about the same prompts, or about none.
    """
    prompts = [scores.prompt_id for scores in base]
    if not prompts or prompts != [scores.prompt_id for scores in model]:
        raise ValueError("base and model must be scored on the same prompts in the same order, at least one")
    one_each = np.ones(len(prompts), np.int64)
    means, differences = {}, {}
    for name in base[0].criteria:
        lost, lost_by_base = (
            np.array([1 - scores.criteria[name] for scores in side]) for side in (model, base)
        )
        means[name] = (1 - float(lost_by_base.mean()), 1 - float(lost.mean()))
        difference = paired_difference(lost, lost_by_base, one_each, samples, confidence, seed)
        is_enough = len(prompts) >= FEWEST_PROMPTS
        differences[name] = difference if is_enough else replace(difference, p_value=1.0)
    verdicts = judge(differences, confidence)
    return [
        CriterionComparison(
            criterion=name,
            prompts=len(prompts),
            base=means[name][0],
            model=means[name][1],
            difference=0.0 - difference.difference,  # not −0.0
            low=0.0 - difference.high,
            high=0.0 - difference.low,
            p_value=verdicts[name][1],
            verdict=verdicts[name][0],
        )
        for name, difference in differences.items()
    ]


def _score(answer: Answer, same: Measure | None, rules: ScoringRules) -> RuleScores:
    kind = rules.kinds[answer.kind]
    problem = answer.problem or (None if written(answer) else NOTHING_WRITTEN)
    if problem:
        expected = [name for name in rules.rules if name not in kind.leave_out]
        nothing = dict.fromkeys(expected, RuleScore(0.0, problem))
        return RuleScores(answer.prompt_id, answer.kind, nothing, dict.fromkeys(rules.criteria, 0.0), problem)
    measured = measure(answer, kind)
    if same and "sameness" not in kind.leave_out:
        measured["sameness"] = same
    judged = {
        name: RuleScore(rules.rules[name].score(found.value), found.reason)
        for name, found in measured.items()
    }
    criteria = {name: _criterion(criterion, judged) for name, criterion in rules.criteria.items()}
    return RuleScores(answer.prompt_id, answer.kind, judged, criteria)


def _criterion(criterion: Criterion, judged: Mapping[RuleName, RuleScore]) -> float:
    """Weighted geometric mean over the rules that judged the text."""
    weights = {name: weight for name, weight in criterion.weights.items() if name in judged}
    if any(judged[name].score == 0 for name in weights):
        return 0.0
    logs = sum(weight * math.log(judged[name].score) for name, weight in weights.items())
    return math.exp(logs / sum(weights.values()))

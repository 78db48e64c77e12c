"""What answers to multiple-choice items say about one model, and about two on the same items.

- Interval of an accuracy: Wilson's score interval ("Probable inference, the law of succession, and statistical
  inference", 1927), which stays within 0 and 1 and is right for few items, where ±1.96·√(p(1−p)/n) is not.
- Two models on the same items: only the items on which exactly one of them is right tell them apart. McNemar's test
  (1947) in its exact form asks how likely so uneven a split of them is for a fair coin; Holm's correction over the
  benchmarks. Twice the same model has no such item: p = 1, "not shown".
- Interval of the difference: Bonett and Price (2012), one of those that Fagerland, Lydersen and Laake recommend
  ("Recommended tests and confidence intervals for paired binomial proportions", 2014). It is not corrected over the
  benchmarks, the verdict is.
- Macro-F1, in which KoBEST's results are published: the mean over the choices of the harmonic mean of precision and
  recall. A model that always says "yes" has half the accuracy there.

Two figures say what an accuracy is worth: guessing (`chance`), and giving the answer that is right most often
(`constant`): of KoBEST's WiC items, 57 % are "no".
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from yunmin_assets.evaluation.benchmark_files import LeftOut
from yunmin_assets.paired_bootstrap import Verdict, holm, verdict


@dataclass(frozen=True)
class Answer:
    """What a model chose, counted from 0; None where it gave no answer, which counts as wrong."""

    chosen: int | None
    right: int

    @property
    def is_right(self) -> bool:
        """Whether it chose the right one."""
        return self.chosen == self.right


@dataclass(frozen=True)
class ChoiceResult:
    """One model on one benchmark; accuracies are shares of the items asked, from 0 to 1."""

    benchmark: str
    model: str
    metric: str
    """lm-eval's name: `acc` takes the choice with the largest log-likelihood, `acc_norm` with the largest per
    character."""
    items_in_file: int
    left_out: tuple[LeftOut, ...]
    """Items of the file that cannot be asked."""
    items: int
    """Items asked: those that can be, or as many of them as the limit allows."""
    correct: int
    accuracy: float
    low: float
    high: float
    macro_f1: float
    chance: float
    constant: float
    unanswered: tuple[LeftOut, ...]
    """Items asked to which the model gave no answer, and why; they count as wrong."""
    answers: dict[int, Answer]
    """By place in the file, counted from 1."""


@dataclass(frozen=True)
class ChoiceComparison:
    """A model against the base on the same items of one benchmark."""

    benchmark: str
    base: str
    model: str
    items: int
    only_base_right: int
    only_model_right: int
    difference: float
    """Accuracy of the model minus that of the base."""
    low: float
    high: float
    p_value: float
    """Two-sided, corrected over the benchmarks compared."""
    verdict: Verdict


def wilson_interval(correct: int, items: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Raises:
        ValueError: not 0 ≤ correct ≤ items, or no items.
    """
    if not 0 <= correct <= items or items == 0:
        raise ValueError(f"{correct} correct of {items} items is no share")
    z = _quantile(confidence)
    share = correct / items
    centre = share + z * z / (2 * items)
    spread = z * math.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
    scale = 1 + z * z / items
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value for so many items on which only A, and on which only B is right."""
    flips = only_a + only_b
    ways = total = 1
    for heads in range(min(only_a, only_b)):
        ways = ways * (flips - heads) // (heads + 1)
        total += ways
    return min(1.0, 2 * total / 2**flips)


def difference_interval(
    only_base: int, only_model: int, items: int, confidence: float = 0.95
) -> tuple[float, float]:
    """The interval of Bonett and Price for a difference of accuracies on the same items."""
    z = _quantile(confidence)
    worse, better = (only_base + 1) / (items + 2), (only_model + 1) / (items + 2)
    difference = better - worse
    spread = z * math.sqrt((better + worse - difference**2) / (items + 2))
    return max(difference - spread, -1.0), min(difference + spread, 1.0)


def macro_f1(answers: Sequence[Answer]) -> float:
    """The mean F1 of the choices that were right or chosen at least once."""
    chosen = Counter(answer.chosen for answer in answers if answer.chosen is not None)
    right = Counter(answer.right for answer in answers)
    both = Counter(answer.right for answer in answers if answer.is_right)
    labels = chosen.keys() | right.keys()
    return sum(2 * both[label] / (chosen[label] + right[label]) for label in labels) / len(labels)


def best_constant(answers: Sequence[Answer]) -> float:
    """The accuracy of always giving the answer that is right most often."""
    return Counter(answer.right for answer in answers).most_common(1)[0][1] / len(answers)


def compare_choices(
    base: Sequence[ChoiceResult], model: Sequence[ChoiceResult], confidence: float = 0.95
) -> list[ChoiceComparison]:
    """Compare a model with the base on every benchmark, corrected for having looked at all of them.

    Raises:
        ValueError: they were not asked the same benchmarks, or not the same items.
    """
    pairs = list(zip(_by_benchmark(base).values(), _same_order(base, model), strict=True))
    splits = [_split(one, other) for one, other in pairs]
    adjusted = holm([mcnemar(*split) for split in splits])
    return [
        _comparison(one, other, split, p_value, confidence)
        for (one, other), split, p_value in zip(pairs, splits, adjusted, strict=True)
    ]


def _comparison(
    base: ChoiceResult, model: ChoiceResult, split: tuple[int, int], p_value: float, confidence: float
) -> ChoiceComparison:
    only_base, only_model = split
    low, high = difference_interval(only_base, only_model, base.items, confidence)
    difference = (only_model - only_base) / base.items
    return ChoiceComparison(
        benchmark=base.benchmark,
        base=base.model,
        model=model.model,
        items=base.items,
        only_base_right=only_base,
        only_model_right=only_model,
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        verdict=verdict(-difference, p_value, confidence),  # which expects a loss: less is better
    )


def _split(base: ChoiceResult, model: ChoiceResult) -> tuple[int, int]:
    """Items on which only the base, and on which only the model is right."""
    key = {item: answer.right for item, answer in base.answers.items()}
    if key != {item: answer.right for item, answer in model.answers.items()}:
        raise ValueError(
            f"{base.model} and {model.model} were not asked the same items of {base.benchmark}: evaluate both on the "
            "same file with the same limit"
        )
    outcomes = Counter((base.answers[item].is_right, model.answers[item].is_right) for item in key)
    return outcomes[True, False], outcomes[False, True]


def _same_order(base: Sequence[ChoiceResult], model: Sequence[ChoiceResult]) -> list[ChoiceResult]:
    one, other = _by_benchmark(base), _by_benchmark(model)
    if one.keys() != other.keys():
        raise ValueError(
            f"the base answered {', '.join(one)}, the model {', '.join(other)}: evaluate both on the same"
        )
    return [other[benchmark] for benchmark in one]


def _by_benchmark(results: Sequence[ChoiceResult]) -> Mapping[str, ChoiceResult]:
    return {result.benchmark: result for result in results}


def _quantile(confidence: float) -> float:
    """How many standard deviations hold so much of a normal distribution around its mean."""
    return NormalDist().inv_cdf((1 + confidence) / 2)

"""Figures about answers agree with published values, with scipy and with scikit-learn."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from yunmin_assets.evaluation.choice_statistics import (
    Answer,
    ChoiceResult,
    best_constant,
    compare_choices,
    difference_interval,
    macro_f1,
    mcnemar,
    wilson_interval,
)


def result(chosen: str, right: str, benchmark: str = "kobest_copa", model: str = "base") -> ChoiceResult:
    """A model's result from the choices it made; `-` is no answer."""
    answers = {
        place: Answer(None if one == "-" else int(one), int(other))
        for place, (one, other) in enumerate(zip(chosen, right, strict=True), start=1)
    }
    correct = sum(answer.is_right for answer in answers.values())
    low, high = wilson_interval(correct, len(answers))
    return ChoiceResult(
        benchmark=benchmark,
        model=model,
        metric="acc",
        items_in_file=len(answers),
        left_out=(),
        items=len(answers),
        correct=correct,
        accuracy=correct / len(answers),
        low=low,
        high=high,
        macro_f1=macro_f1(list(answers.values())),
        chance=0.5,
        constant=best_constant(list(answers.values())),
        unanswered=(),
        answers=answers,
    )


@pytest.mark.parametrize(
    ("correct", "items", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_the_table_of_newcombe_1998(correct, items, low, high):
    assert wilson_interval(correct, items) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(
    st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999)
)
def test_wilson_agrees_with_scipy(share, confidence):
    correct, items = share
    theirs = binomtest(correct, items).proportion_ci(confidence, method="wilson")
    assert wilson_interval(correct, items, confidence) == (
        pytest.approx(theirs.low, abs=1e-12),
        pytest.approx(theirs.high, abs=1e-12),
    )


@pytest.mark.parametrize(("correct", "items"), [(0, 0), (-1, 5), (6, 5)])
def test_what_is_no_share_has_no_interval(correct, items):
    with pytest.raises(ValueError, match="is no share"):
        wilson_interval(correct, items)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_agrees_with_scipys_binomial_test(only_a, only_b):
    theirs = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(theirs, rel=1e-9)


def test_mcnemar_stays_exact_for_as_many_items_as_kmmlu_has():
    assert mcnemar(8000, 8500) == pytest.approx(binomtest(8000, 16500, 0.5).pvalue, rel=1e-9)


def test_the_interval_of_a_difference_is_that_of_bonett_and_price():
    """21 children before and after a transplantation, the example of Fagerland, Lydersen and Laake 2014."""
    low, high = difference_interval(only_base=7, only_model=1, items=21)
    middle, spread = -6 / 23, 1.959964 * math.sqrt((10 / 23 - (6 / 23) ** 2) / 23)
    assert (low, high) == (pytest.approx(middle - spread), pytest.approx(middle + spread))
    assert (low, high) == (pytest.approx(-0.508, abs=5e-4), pytest.approx(-0.013, abs=5e-4))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_macro_f1_agrees_with_scikit_learn(pairs):
    answers = [Answer(chosen, right) for chosen, right in pairs]
    theirs = f1_score([each.right for each in answers], [each.chosen for each in answers], average="macro")
    assert macro_f1(answers) == pytest.approx(theirs)


def test_a_model_that_always_says_yes_has_half_the_accuracy_in_macro_f1():
    always = result("1111", "1010")
    assert (always.accuracy, always.constant) == (0.5, 0.5)
    assert always.macro_f1 == pytest.approx(1 / 3)


def test_no_answer_is_a_wrong_answer_and_no_choice_of_its_own():
    silent = result("-1", "01")
    assert silent.accuracy == 0.5
    assert silent.macro_f1 == pytest.approx((0 + 1) / 2)


def test_a_model_compared_with_itself_is_not_shown_to_differ():
    base = [result("0101", "0011", "boolq"), result("1-", "11", "copa")]
    for line in compare_choices(base, [replace(each, model="merged") for each in base]):
        assert (line.verdict, line.p_value, line.difference) == ("not shown", 1.0, 0.0)
        assert line.low < 0 < line.high


def test_many_more_right_answers_are_better_and_the_other_way_round_worse():
    base, model = [result("0" * 40, "1" * 40)], [result("1" * 30 + "0" * 10, "1" * 40, model="merged")]
    (line,) = compare_choices(base, model)
    assert (line.only_base_right, line.only_model_right, line.difference, line.verdict) == (
        0,
        30,
        0.75,
        "better",
    )
    assert 0 < line.low < 0.75 < line.high
    assert compare_choices(model, base)[0].verdict == "worse"


def test_looking_at_more_benchmarks_demands_more_of_each():
    def of(benchmark: str, flips: int) -> tuple[ChoiceResult, ChoiceResult]:
        return result("0" * 10, "1" * 10, benchmark), result(
            "1" * flips + "0" * (10 - flips), "1" * 10, benchmark
        )

    base, model = zip(of("a", 6), of("b", 0), of("c", 0), strict=True)
    assert compare_choices(base[:1], model[:1])[0].verdict == "better"  # p = 2/2⁶ = 0.031
    assert compare_choices(base, model)[0].verdict == "not shown"
    assert compare_choices(base, model)[0].p_value == pytest.approx(3 * 2 / 2**6)


def test_benchmarks_are_paired_by_name():
    base = [result("00", "01", "a"), result("11", "11", "b")]
    assert [line.only_base_right for line in compare_choices(base, base[::-1])] == [0, 0]


def test_models_that_answered_different_items_are_not_compared():
    with pytest.raises(ValueError, match=r"not asked the same items of kobest_copa.*same limit"):
        compare_choices([result("00", "01")], [result("000", "011", model="merged")])
    with pytest.raises(ValueError, match="the base answered a, the model b"):
        compare_choices([result("0", "0", "a")], [result("0", "0", "b")])


def test_nothing_compared_is_no_line():
    assert compare_choices([], []) == []

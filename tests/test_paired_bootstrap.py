"""Perplexity intervals, paired differences and verdicts, against hand-computed values, SciPy and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from yunmin_assets.paired_bootstrap import (
    PairedDifference,
    bootstrap_perplexity,
    holm,
    judge,
    paired_difference,
    verdict,
)

RNG_SEED = 20251121


def made_up_losses(documents: int, seed: int = RNG_SEED) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n_tokens = rng.integers(20, 400, documents)
    return n_tokens * rng.gamma(30, 0.15, documents), n_tokens


def test_perplexity_weighs_documents_by_their_tokens() -> None:
    found = bootstrap_perplexity(np.array([10.0, 90.0]), np.array([10, 30]), samples=50)
    assert found.perplexity == pytest.approx(math.exp(100 / 40))


def test_interval_of_equal_documents_is_a_point() -> None:
    found = bootstrap_perplexity(np.full(7, 12.0), np.full(7, 6), samples=50)
    assert (found.low, found.perplexity, found.high) == pytest.approx((math.exp(2),) * 3)


def test_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    nll, n_tokens = made_up_losses(150)
    mine = bootstrap_perplexity(nll, n_tokens, samples=8000, confidence=0.9, seed=1)
    theirs = stats.bootstrap(
        (nll, n_tokens),
        lambda losses, tokens, axis: np.exp(losses.sum(axis=axis) / tokens.sum(axis=axis)),
        paired=True, vectorized=True, n_resamples=8000, confidence_level=0.9, method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert mine.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert mine.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_two_documents_give_the_hand_computed_p_value() -> None:
    # A loses 4 nats on the first document and 2 on the second against B, with one token each: d = -3. Draws of
    # two documents have differences -4, -3, -3, -2, each 1/4. The first and the last hold one document twice: their
    # standard error is 0, so that they are infinitely far away in its units. The others do not move. p = 1/2.
    found = paired_difference(np.array([1.0, 1.0]), np.array([5.0, 3.0]), np.array([1, 1]), samples=9999)
    assert found.difference == pytest.approx(-3)
    assert (found.low, found.high) == pytest.approx((-4, -2))
    assert found.p_value == pytest.approx(1 / 2, abs=0.02)


def test_the_p_value_agrees_with_students_t_where_that_is_exact() -> None:
    """Normal differences of documents of one length: the ratio is a mean, and bootstrap-t is Student's t."""
    rng = np.random.default_rng(RNG_SEED)
    n_tokens = np.full(60, 100)
    for shift in (0.0, 1.0, 2.0, 3.0):
        change = rng.normal(shift, 10, 60)
        found = paired_difference(400 + change, np.full(60, 400.0), n_tokens, samples=4000)
        assert found.p_value == pytest.approx(stats.ttest_1samp(change, 0).pvalue, abs=0.02)


def test_the_same_gain_on_every_token_is_certain() -> None:
    for n_tokens in (np.arange(20, 80), np.full(60, 50)):
        found = paired_difference(3.9 * n_tokens, 4.0 * n_tokens, n_tokens, samples=999)
        assert found.p_value == pytest.approx(1 / 1000)


def test_the_difference_is_that_of_the_mean_losses_per_token() -> None:
    nll_a, n_tokens = made_up_losses(40)
    nll_b = nll_a * 1.03
    expected = nll_a.sum() / n_tokens.sum() - nll_b.sum() / n_tokens.sum()
    assert paired_difference(nll_a, nll_b, n_tokens).difference == pytest.approx(expected)


def test_swapping_the_models_mirrors_the_difference() -> None:
    nll_a, n_tokens = made_up_losses(60)
    nll_b = nll_a + np.random.default_rng(3).normal(0, 20, 60).clip(-nll_a)
    forth, back = paired_difference(nll_a, nll_b, n_tokens), paired_difference(nll_b, nll_a, n_tokens)
    assert forth.difference == pytest.approx(-back.difference)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert forth.p_value == back.p_value


def test_identical_models_are_not_shown_to_differ() -> None:
    nll, n_tokens = made_up_losses(30)
    found = paired_difference(nll, nll.copy(), n_tokens)
    assert found == PairedDifference(0.0, 0.0, 0.0, 1.0)
    assert judge({"web": found, "law": found}) == {"web": ("not shown", 1.0), "law": ("not shown", 1.0)}


def test_a_clear_gain_is_better_and_a_clear_loss_is_worse() -> None:
    nll, n_tokens = made_up_losses(100)
    gain = paired_difference(nll * 0.95, nll, n_tokens)
    loss = paired_difference(nll * 1.05, nll, n_tokens)
    assert gain.high < 0 < loss.low
    verdicts = judge({"gain": gain, "loss": loss})
    assert (verdicts["gain"][0], verdicts["loss"][0]) == ("better", "worse")


def test_without_a_difference_about_five_percent_are_called_significant() -> None:
    rng = np.random.default_rng(RNG_SEED)
    false_alarms = 0
    for seed in range(400):
        n_tokens = rng.integers(50, 150, 80)
        noise = n_tokens * rng.normal(0, 0.1, 80)
        nll = n_tokens * 4.0
        false_alarms += paired_difference(nll + noise, nll, n_tokens, samples=300, seed=seed).p_value <= 0.05
    assert 0.02 <= false_alarms / 400 <= 0.09


def test_few_documents_of_very_unequal_length_do_not_raise_more_false_alarms() -> None:
    """Plain draws call 12 to 17 % of such differences significant."""
    rng = np.random.default_rng(RNG_SEED)
    false_alarms = 0
    for seed in range(400):
        n_tokens = np.maximum(1, rng.lognormal(5, 1.2, 20)).astype(np.int64)
        noise = n_tokens * rng.normal(0, 0.1, 20)
        nll = n_tokens * 4.0
        false_alarms += paired_difference(nll + noise, nll, n_tokens, samples=300, seed=seed).p_value <= 0.05
    assert false_alarms / 400 <= 0.09


def test_a_difference_below_the_precision_of_losses_is_none() -> None:
    n_tokens = np.full(100, 50)
    shifted = paired_difference(4.0 * n_tokens + 5e-6 * n_tokens, 4.0 * n_tokens, n_tokens)
    assert shifted.p_value < 0.01
    assert judge({"web": shifted})["web"][0] == "not shown"


def test_holm_on_a_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(
        p <= a <= min(1.0, p * len(p_values)) or a >= p for p, a in zip(p_values, adjusted, strict=True)
    )
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    assert adjusted[order[0]] == min(1.0, p_values[order[0]] * len(p_values))


def test_correction_over_domains_can_take_a_verdict_back() -> None:
    borderline = PairedDifference(-0.02, -0.04, -0.001, 0.03)
    assert judge({"web": borderline})["web"][0] == "better"
    assert judge({"web": borderline, "law": borderline})["web"] == ("not shown", 0.06)


def test_verdict_depends_on_the_confidence_asked_for() -> None:
    assert verdict(-0.1, 0.04, confidence=0.95) == "better"
    assert verdict(-0.1, 0.04, confidence=0.99) == "not shown"


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 1500))
def test_the_same_seed_gives_the_same_interval(seed: int, samples: int) -> None:
    nll, n_tokens = made_up_losses(12)
    assert bootstrap_perplexity(nll, n_tokens, samples, seed=seed) == bootstrap_perplexity(
        nll, n_tokens, samples, seed=seed
    )


@pytest.mark.parametrize(
    ("nll_a", "n_tokens", "message"),
    [
        ([1.0, math.nan], [1, 1], r"nll_a\[1\] is nan"),
        ([1.0, -2.0], [1, 1], r"nll_a\[1\] is -2"),
        ([1.0, 2.0], [1, 0], r"n_tokens\[1\] is 0"),
        ([1.0], [1, 1], r"nll_a has shape \(1,\)"),
        ([], [], r"nll_a has shape \(0,\)"),
    ],
)
def test_bad_input_is_named(nll_a: list[float], n_tokens: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(np.array(nll_a), np.ones(len(n_tokens)), np.array(n_tokens))

"""Perplexity with an interval, and paired comparison of two models, by bootstrap over documents.

Documents are drawn with replacement, never tokens: tokens of one document depend on each other (Koehn 2004,
"Statistical significance tests for machine translation evaluation", draws whole segments for the same reason).
A draw's loss is the sum of its documents' losses over the sum of their tokens, so long documents weigh more.

- Interval: the percentiles of the draws.
- p-value of a difference d: the share of draws that lie as far from d as d from 0, each in units of its own standard
  error. Centred draws are those of "no difference" (Efron and Tibshirani 1993, chapter 16); dividing by the standard
  error (bootstrap-t, chapter 12.5; linearised for a ratio, Cochran 1977, 6.4) keeps the promised error rate for a few
  dozen documents of very unequal length, which plain draws exceed. 1 is added above and below, so it is never 0.
- A difference below 1e-5, the precision to which losses are exact, is no difference.
- Several domains: Holm's step-down correction (Holm 1979).

Price: samples × documents integers, 512 draws at a time, and five sums over them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Verdict = Literal["better", "worse", "not shown"]

DRAWS_AT_ONCE = 512
ROUNDING = 1e-9
SMALLEST_DIFFERENCE = 1e-5
"""Losses per token (or byte) are exact to this; what differs by less may differ by batch, window or device only."""


@dataclass(frozen=True)
class PerplexityInterval:
    """Perplexity of a set of documents with its bootstrap interval; all three per token."""

    perplexity: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean loss of model A minus that of model B on the same documents, in nats per token; below 0, A is better."""

    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided, of "there is no difference"."""


def bootstrap_perplexity(
    nll: Floats, n_tokens: NDArray[np.int64], samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> PerplexityInterval:
    """Perplexity exp(Σ nll / Σ n_tokens) with a percentile interval over documents.

    Args:
        nll: float64 [n_documents], summed negative log likelihood of each document in nats.
        n_tokens: int64 [n_documents], tokens of each document.
        samples: number of bootstrap draws.
        confidence: probability mass of the interval.
        seed: the same seed draws the same documents.

    Raises:
        ValueError: the arrays are empty or of unequal length, or hold a value that is not finite or below 0.
    """
    losses, tokens = _checked("nll", nll, n_tokens)
    drawn = _draw_sums(np.stack([losses, tokens], axis=1), samples, seed)
    low, high = _percentile_interval(np.exp(drawn[:, 0] / drawn[:, 1]), confidence)
    return PerplexityInterval(float(np.exp(losses.sum() / tokens.sum())), low, high)


def paired_difference(
    nll_a: Floats,
    nll_b: Floats,
    n_tokens: NDArray[np.int64],
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare two models on the same documents.

    Args:
        nll_a: float64 [n_documents], summed negative log likelihood under model A in nats.
        nll_b: the same under model B, with the same tokens.
        n_tokens: int64 [n_documents].
        samples: number of bootstrap draws; the smallest possible p-value is 1 / (samples + 1).
        confidence: probability mass of the interval.
        seed: the same seed draws the same documents.

    Raises:
        ValueError: the arrays are empty or of unequal length, or hold a value that is not finite or below 0.
    """
    losses_a, tokens = _checked("nll_a", nll_a, n_tokens)
    losses_b, _ = _checked("nll_b", nll_b, n_tokens)
    change = losses_a - losses_b
    difference = float(change.sum() / tokens.sum())
    rest = change - difference * tokens  # what the difference leaves unexplained; sums to 0
    moments = np.stack([rest, tokens, rest * rest, rest * tokens, tokens * tokens], axis=1)
    _, error = _ratio_and_error(moments.sum(axis=0))
    deviations, errors = _ratio_and_error(_draw_sums(moments, samples, seed).T)
    as_far = int((np.abs(deviations) * error >= abs(difference) * errors).sum())
    if error < ROUNDING * abs(difference):  # every token of every document differs by the same
        as_far = 0
    low, high = _percentile_interval(difference + deviations, confidence)
    return PairedDifference(difference, low, high, (1 + as_far) / (1 + samples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values in the order given: comparing them with α keeps the familywise error at α."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    so_far = 0.0
    for rank, place in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = so_far
    return adjusted


def verdict(difference: float, adjusted_p: float, confidence: float = 0.95) -> Verdict:
    """What a difference in loss (A minus B) says about A; equal models are "not shown" to differ."""
    if abs(difference) < SMALLEST_DIFFERENCE or adjusted_p > 1 - confidence:
        return "not shown"
    return "better" if difference < 0 else "worse"


def judge(
    differences: Mapping[str, PairedDifference], confidence: float = 0.95
) -> dict[str, tuple[Verdict, float]]:
    """Verdict and Holm-adjusted p-value per domain, corrected over all domains given."""
    adjusted = holm([each.p_value for each in differences.values()])
    return {
        domain: (verdict(each.difference, p_value, confidence), p_value)
        for (domain, each), p_value in zip(differences.items(), adjusted, strict=True)
    }


def _checked(name: str, nll: Floats, n_tokens: NDArray[np.int64]) -> tuple[Floats, Floats]:
    losses, tokens = np.asarray(nll, np.float64), np.asarray(n_tokens, np.float64)
    if losses.ndim != 1 or losses.shape != tokens.shape or not len(losses):
        raise ValueError(
            f"{name} has shape {losses.shape}, n_tokens {tokens.shape}: give one number per document"
        )
    if not (np.isfinite(losses).all() and (losses >= 0).all()):
        place = int(np.flatnonzero(~(np.isfinite(losses) & (losses >= 0)))[0])
        raise ValueError(f"{name}[{place}] is {losses[place]}: a loss is a finite number of at least 0")
    if not (tokens > 0).all():
        place = int(np.flatnonzero(~(tokens > 0))[0])
        raise ValueError(f"n_tokens[{place}] is {tokens[place]:.0f}: leave documents without tokens out")
    return losses, tokens


def _draw_sums(values: Floats, samples: int, seed: int) -> Floats:
    """Sums over documents drawn with replacement: [n_documents, k] → [samples, k]."""
    rng = np.random.default_rng(seed)
    documents = len(values)
    sums = np.empty((samples, values.shape[1]))
    for first in range(0, samples, DRAWS_AT_ONCE):
        draws = rng.integers(0, documents, size=(min(DRAWS_AT_ONCE, samples - first), documents))
        sums[first : first + len(draws)] = values[draws].sum(axis=1)
    return sums


def _ratio_and_error(sums: Floats) -> tuple[Floats, Floats]:
    """Σx / Σn and its linearised standard error, from the sums of x, n, x², xn and n²: [5, …] → two of […]."""
    x, n, xx, xn, nn = sums
    ratio = x / n
    return ratio, np.sqrt(np.maximum(xx - 2 * ratio * xn + ratio * ratio * nn, 0.0)) / n


def _percentile_interval(values: Floats, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)

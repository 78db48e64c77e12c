"""The arms of a pruning study against their controls, by bootstrap over held-out documents.

Both are measured on the same documents, so differences are paired. Documents are drawn with replacement within each
domain; a draw's macro difference is the mean over domains of the difference in loss per token, so that every domain
weighs alike, however much text it has. A document's loss is the mean over seeds.

A verdict needs a difference beyond what drawing other documents explains, corrected for the number of comparisons
(Holm), and the same sign in every seed. With one seed nothing is known about the chance of training.

Price: samples × documents integers per domain and comparison.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from yunmin_assets.paired_bootstrap import PairedDifference, Verdict, judge
from yunmin_assets.pruning.config import StudyConfig

FEWEST_DOCUMENTS = 20
"""Held-out documents below which a domain is shown, but takes no part in averages and verdicts."""
BOOTSTRAP_SEED = 0

Floats = NDArray[np.floating]
Key = TypeVar("Key")


@dataclass(frozen=True)
class HeldOut:
    """The documents on which arms are measured: those with a token."""

    rows: Mapping[str, NDArray[np.int64]]
    """By domain, places in the tables of scores."""
    n_tokens: NDArray[np.int64]
    n_bytes: NDArray[np.int64]

    @classmethod
    def of(cls, scores: pa.Table) -> "HeldOut":
        """From the scores of any arm."""
        domains = np.array(scores["domain"].to_pylist())
        n_tokens, n_bytes = scores["n_tokens"].to_numpy(), scores["n_bytes"].to_numpy()
        rows = {str(name): np.flatnonzero((domains == name) & (n_tokens > 0)) for name in np.unique(domains)}
        return cls({name: own for name, own in rows.items() if len(own)}, n_tokens, n_bytes)

    @property
    def judged(self) -> list[str]:
        """Domains with enough documents."""
        return [domain for domain, rows in self.rows.items() if len(rows) >= FEWEST_DOCUMENTS]

    def loss_per_token(self, nll: Floats) -> dict[str, float]:
        """By domain, in nats: the logarithm of its perplexity."""
        return {
            domain: float(nll[rows].sum() / self.n_tokens[rows].sum()) for domain, rows in self.rows.items()
        }

    def bits_per_byte(self, nll: Floats) -> dict[str, float]:
        """By domain."""
        return {
            domain: float(nll[rows].sum() / self.n_bytes[rows].sum()) / math.log(2)
            for domain, rows in self.rows.items()
        }

    def macro(self, by_domain: Mapping[str, float]) -> float:
        """The mean over judged domains."""
        return sum(by_domain[domain] for domain in self.judged) / len(self.judged)


@dataclass(frozen=True)
class Compared:
    """A selection's loss per token minus that of its control."""

    macro: PairedDifference
    domains: Mapping[str, PairedDifference]
    """Judged domains."""
    same_sign_in_every_seed: bool


def compare(
    own: Sequence[Floats], control: Sequence[Floats], held_out: HeldOut, config: StudyConfig
) -> Compared:
    """Compare a selection with its control.

    Args:
        own: by seed, float64 [documents], summed loss of each held-out document in nats.
        control: the same of the control.
        held_out: the documents.
        config: number of draws, and the probability mass of intervals.
    """
    changes = [mine - theirs for mine, theirs in zip(own, control, strict=True)]
    change: Floats = np.mean(changes, axis=0)
    measured = held_out.loss_per_token(change)
    draws = {
        domain: _draws(
            change[held_out.rows[domain]], held_out.n_tokens[held_out.rows[domain]], config, stream
        )
        for stream, domain in enumerate(held_out.judged)
    }
    signs = {bool(held_out.macro(held_out.loss_per_token(each)) < 0) for each in changes}
    return Compared(
        _with_interval(held_out.macro(measured), np.mean(list(draws.values()), axis=0), config.confidence),
        {domain: _with_interval(measured[domain], own, config.confidence) for domain, own in draws.items()},
        len(signs) == 1,
    )


def judge_all(compared: Mapping[Key, Compared], confidence: float) -> dict[Key, tuple[Verdict, float]]:
    """Verdict and corrected p-value of each macro difference; none is claimed where seeds disagree."""
    keys = list(compared)
    differences = {
        str(place): each.macro if each.same_sign_in_every_seed else replace(each.macro, p_value=1.0)
        for place, each in enumerate(compared.values())
    }
    return dict(zip(keys, judge(differences, confidence).values(), strict=True))


def _draws(change: Floats, n_tokens: NDArray[np.int64], config: StudyConfig, stream: int) -> Floats:
    """Differences in loss per token of as many documents, drawn with replacement: [samples].

    Args:
        stream: of random numbers, one for each domain.
    """
    random = np.random.default_rng([BOOTSTRAP_SEED, stream])
    drawn = random.integers(0, len(change), size=(config.bootstrap_samples, len(change)))
    return change[drawn].sum(axis=1) / n_tokens[drawn].sum(axis=1)


def _with_interval(difference: float, draws: Floats, confidence: float) -> PairedDifference:
    """Percentile interval, and the p-value of `evaluation.statistics`: draws centred on no difference."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    as_far = int((np.abs(draws - difference) >= abs(difference)).sum())
    return PairedDifference(difference, float(low), float(high), (1 + as_far) / (1 + len(draws)))

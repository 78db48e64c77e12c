"""What is compared in a weight search, what each candidate cost, and who is better than uniform weights.

A candidate's figure is the mean over domains of its loss per token on the comparison rows. Against `uniform` rows are
drawn with replacement within each domain (a paired bootstrap, Koehn 2004), and a draw's difference is the mean over
domains, so that every domain weighs alike; verdicts are corrected for the number of candidates (Holm).

Price: 1,000 × rows integers per candidate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from yunmin_assets.dem.difference import Weight
from yunmin_assets.dem.search_controls import Spent
from yunmin_assets.dem.search_losses import loss_per_token, mean_over_domains
from yunmin_assets.dem.search_rows import Rows
from yunmin_assets.paired_bootstrap import PairedDifference, judge

BASE, UNIFORM, SEARCHED, FIXED = "base", "uniform", "searched", "fixed"
JOINT, ON_VALIDATION = "joint", "lora on validation"
SAMPLES, CONFIDENCE = 1000, 0.95
FEWEST_ROWS_TO_JUDGE = 20
"""A bootstrap over fewer rows of a domain is far too sure of itself: there is no verdict."""

RowLosses = Mapping[str, list[float]]
"""By domain, summed loss of each row in nats."""


@dataclass(frozen=True)
class Candidate:
    """A model that is compared."""

    name: str
    weights: dict[str, Weight] | None
    """None: a control, which is no sum of the domains' differences and is never chosen."""
    training: Spent | None
    """What had to be trained for it; None: nobody said."""
    search: Spent = Spent(0, 0.0)  # noqa: RUF009 (is frozen)


def single(domain: str) -> str:
    """Name of the candidate that is one domain's model alone."""
    return f"only {domain}"


def candidate_table(
    candidates: Mapping[str, Candidate],
    losses: Mapping[str, RowLosses],
    rows: Rows,
    domains: list[str],
    seed: int,
) -> pa.Table:
    """One row per candidate.

    Args:
        candidates: By name; `uniform` is among them.
        losses: Of each candidate on `rows`.
        rows: The comparison rows.
        domains: Whose differences are weighted.
        seed: Of the bootstrap.

    Returns:
        candidate, is_control, mean_nll and perplexity; `nll/<domain>` of each domain of `rows`; `weight/<domain>`, null
        where it is not one number; training_tokens, search_tokens and cpu_seconds, null where not known; and against
        `uniform` difference, low, high (95 %), p_value and verdict, null for `uniform` itself. A loss that is not
        finite is null, as is all that follows from it, and so is a perplexity beyond floating point.
    """
    per_token = {name: loss_per_token(losses[name], rows) for name in candidates}
    means = {name: mean_over_domains(by_domain) for name, by_domain in per_token.items()}
    differences = {
        name: _against(losses[name], losses[UNIFORM], rows, seed)
        for name in candidates
        if name != UNIFORM and math.isfinite(means[name]) and math.isfinite(means[UNIFORM])
    }
    verdicts = judge(differences, CONFIDENCE)
    table = []
    for name, candidate in candidates.items():
        training = candidate.training
        row: dict[str, object] = {
            "candidate": name,
            "is_control": candidate.weights is None,
            "mean_nll": _finite(means[name]),
            "perplexity": _perplexity(means[name]),
        }
        row |= {f"weight/{domain}": _number((candidate.weights or {}).get(domain)) for domain in domains}
        row |= {f"nll/{domain}": _finite(loss) for domain, loss in per_token[name].items()}
        row |= {
            "training_tokens": training.tokens if training else None,
            "search_tokens": candidate.search.tokens,
            "cpu_seconds": training.cpu_seconds + candidate.search.cpu_seconds if training else None,
        }
        difference = differences.get(name)
        row |= {
            key: getattr(difference, key) if difference else None for key in ("difference", "low", "high")
        }
        row |= dict(zip(("verdict", "p_value"), verdicts.get(name, (None, None)), strict=True))
        table.append(row)
    return pa.Table.from_pylist(table)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _perplexity(mean: float) -> float | None:
    try:
        return _finite(math.exp(mean))
    except OverflowError:
        return None


def _number(weight: Weight | None) -> float | None:
    return None if isinstance(weight, Mapping) else weight


def _against(own: RowLosses, other: RowLosses, rows: Rows, seed: int) -> PairedDifference:
    """The difference in mean loss per token, with the percentile interval and p-value of `paired_bootstrap`."""
    parts, draws = [], []
    for stream, (domain, of_domain) in enumerate(rows.items()):
        change = np.array(own[domain]) - np.array(other[domain])
        tokens = of_domain.labelled.cpu().numpy()
        drawn = np.random.default_rng([seed, stream]).integers(0, len(change), size=(SAMPLES, len(change)))
        parts.append(change.sum() / tokens.sum())
        draws.append(change[drawn].sum(axis=1) / tokens[drawn].sum(axis=1))
    difference: float = float(np.mean(parts))
    means: NDArray[np.float64] = np.mean(draws, axis=0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    as_far = int((np.abs(means - difference) >= abs(difference)).sum())
    compared = PairedDifference(difference, float(low), float(high), (1 + as_far) / (1 + SAMPLES))
    is_enough = min(map(len, rows.values())) >= FEWEST_ROWS_TO_JUDGE
    return compared if is_enough else replace(compared, p_value=1.0)

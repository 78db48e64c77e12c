"""Losses of a weighted model on validation rows, and whose fault it is when one is not finite."""

import math
from collections.abc import Mapping

from yunmin_assets.dem.difference import Weight
from yunmin_assets.dem.search_rows import Rows
from yunmin_assets.dem.weighted_model import WeightedModel


def losses_of_rows(model: WeightedModel, rows: Rows, batch_size: int) -> dict[str, list[float]]:
    """Summed loss in nats of every row by domain, of the model as it is weighted now."""
    return {
        domain: [
            loss
            for batch in of_domain.batches(batch_size)
            for loss in model.row_losses(batch.inputs, batch.labels).tolist()
        ]
        for domain, of_domain in rows.items()
    }


def loss_per_token(losses: Mapping[str, list[float]], rows: Rows) -> dict[str, float]:
    """By domain, in nats."""
    return {domain: math.fsum(losses[domain]) / int(rows[domain].labelled.sum()) for domain in losses}


def mean_over_domains(losses: Mapping[str, float]) -> float:
    """What is minimised: every domain weighs alike, however many rows it has."""
    return math.fsum(losses.values()) / len(losses)


def not_finite(losses: Mapping[str, float]) -> list[str]:
    """Domains on whose rows the loss is infinite or no number."""
    return [domain for domain, loss in losses.items() if not math.isfinite(loss)]


def require_finite(
    losses: Mapping[str, float], model: WeightedModel, rows: Rows, weights: Mapping[str, Weight], cure: str
) -> None:
    """Stop a search that has left the numbers.

    Rows of one domain leave them by the difference of any other, so each is measured alone before one is blamed.

    Args:
        losses: By domain of `rows`.
        model: Its weights are overwritten when a loss is not finite.
        rows: On which the losses were measured.
        weights: With which.
        cure: What helps where neither the base nor a single difference is to blame.

    Raises:
        FloatingPointError: Names the rows' domain, the weights, and what to do.
    """
    if found := not_finite(losses):
        shown = {
            domain: "one per tensor" if isinstance(weight, Mapping) else weight
            for domain, weight in weights.items()
        }
        raise FloatingPointError(
            f"the loss on {found[0]!r} is {losses[found[0]]} with the weights {shown}: "
            f"{_cause(model, rows) or cure}"
        )


def _cause(model: WeightedModel, rows: Rows) -> str | None:
    """Whether the base or differences are not finite alone, and what to do then."""

    def is_finite(weights: Mapping[str, Weight]) -> bool:
        model.set_weights(weights)
        return not not_finite(loss_per_token(losses_of_rows(model, rows, batch_size=1), rows))

    if not is_finite(dict.fromkeys(model.domains, 0.0)):
        return "the base alone is not finite there: take another base"
    broken = [
        domain
        for domain in model.domains
        if not is_finite({other: float(other == domain) for other in model.domains})
    ]
    if not broken:
        return None
    return f"the difference of {' and of '.join(map(repr, broken))} alone is not finite: train it again or leave it out"

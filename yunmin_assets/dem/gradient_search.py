"""Weights by the gradient of the validation loss: one per domain, or one per domain and tensor.

Θ + Σ wᵢdᵢ is differentiable in w, so a step costs one forward and one backward pass over a few rows and moves all
weights at once, however many they are. The search starts at the uniform 1/n and minimises the mean over domains of the
loss per token by Adam, with a learning rate that falls linearly to zero so that the last steps settle. Steps go
through the rows in turn, so that each is seen equally often; rows were shuffled when they were packed.
"""

import torch

from yunmin_assets.dem.config import WeightsConfig
from yunmin_assets.dem.difference import Weight
from yunmin_assets.dem.search_journal import Journal
from yunmin_assets.dem.search_losses import require_finite
from yunmin_assets.dem.search_result import SEARCH, Found, SearchStep
from yunmin_assets.dem.search_rows import DomainRows, Rows, count_rows, count_tokens
from yunmin_assets.dem.weighted_model import WeightedModel
from yunmin_assets.progress import Log, Progress

CURE = "lower domain_weights.learning_rate"


def search_gradient(
    model: WeightedModel, rows: Rows, config: WeightsConfig, journal: Journal, log: Log
) -> Found:
    """Descend to the weights with the lowest loss on the rows.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    is_per_tensor = config.method == "per_module"
    columns = len(model.tensors) if is_per_tensor else 1
    values = torch.full((len(model.domains), columns), 1 / len(model.domains))
    optimizer = torch.optim.Adam([values], lr=config.learning_rate)
    curve: list[SearchStep] = []
    tokens = 0
    with Progress(log, "steps of the weight search", total=config.steps) as progress:
        for step in range(config.steps):
            weights = _by_domain(model, values, is_per_tensor)
            batch = {domain: rows_of_step(own, config.batch_size, step) for domain, own in rows.items()}
            loss, gradient = journal.once(
                SEARCH,
                [step, weights],
                lambda weights=weights, batch=batch: _loss_and_gradient(model, weights, batch),  # type: ignore[misc]
            )
            every = torch.tensor(gradient)
            values.grad = every if is_per_tensor else every.sum(dim=1, keepdim=True)
            optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - step / config.steps)
            optimizer.step()
            curve.append(SearchStep(loss, weights, count_rows(batch)))
            tokens += count_tokens(batch)
            progress.advance(note=f"loss {loss:.4f}")
    return Found(_by_domain(model, values, is_per_tensor), curve, tokens)


def rows_of_step(rows: DomainRows, count: int, step: int) -> DomainRows:
    """The next so many rows, from the beginning again after the last; all of them when there are no more."""
    count = min(count, len(rows))
    return rows.pick(torch.arange(step * count, (step + 1) * count) % len(rows))


def _loss_and_gradient(model: WeightedModel, weights: dict[str, Weight], rows: Rows) -> list:
    """Mean over domains of the loss per token, and its gradient [domains][tensors], as JSON values."""
    model.set_weights(weights)
    model.weights.grad = None
    total = 0.0
    for domain, of_domain in rows.items():
        loss = model.mean_loss(of_domain.inputs, of_domain.labels) / len(rows)
        require_finite({domain: loss.item()}, model, {domain: of_domain}, weights, CURE)
        loss.backward()
        total += loss.item()
    assert model.weights.grad is not None
    return [total, model.weights.grad.tolist()]


def _by_domain(model: WeightedModel, values: torch.Tensor, is_per_tensor: bool) -> dict[str, Weight]:
    """One number per domain, or one for each tensor that its difference changes."""
    if not is_per_tensor:
        return dict(zip(model.domains, values[:, 0].tolist(), strict=True))
    return {
        domain: {
            name: value
            for name, value in zip(model.tensors, row, strict=True)
            if name in model.shapes[domain]
        }
        for domain, row in zip(model.domains, values.tolist(), strict=True)
    }

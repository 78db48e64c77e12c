"""Domain weights wᵢ of Θ_D = Θ + Σ wᵢdᵢ, found on validation data (arXiv 2406.15570, section 3).

The paper searches a grid of weights. Here the gradient of the validation loss with respect to the few scalars
wᵢ is followed instead: it starts at the uniform 1/n and minimises the mean over domains of the loss per
token. Base, uniform, each domain alone and the searched weights are then measured on the same validation
rows, and the lowest loss wins, so a search that found nothing better is reported as such.

The weights are chosen on validation rows, a handful of numbers from thousands of tokens; what they are worth
must be measured on test rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from yunmin_assets.dem.config import WeightsConfig
from yunmin_assets.dem.merge import open_differences
from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.dem.weighted_model import WeightedModel
from yunmin_assets.language_model.architecture import load_model
from yunmin_assets.language_model.training import Batch
from yunmin_assets.progress import Log, Progress, silent


@dataclass(frozen=True)
class SearchStep:
    """One step of the gradient search."""

    loss: float
    """Mean over domains of the loss per token in nats, on this step's rows."""
    weights: dict[str, float]
    """The weights that loss was measured with."""


@dataclass(frozen=True)
class WeightSearch:
    """The weights that were found and what they were compared with."""

    weights: dict[str, float]
    chosen: str
    """Name of the candidate that `weights` are."""
    curve: list[SearchStep]
    """Empty when the weights were given."""
    candidates: pa.Table
    """One row per candidate: candidate, mean_nll, and per domain `weight/<domain>` and `nll/<domain>`."""
    rows: dict[str, int]
    """Validation rows per domain on which the candidates were measured."""
    search_tokens: int
    """Tokens that went through the model during the search, without the comparison of candidates."""


Rows = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Per domain: inputs and shifted labels, int64 [rows, length]."""


def search_weights(
    base_dir: Path,
    diffs: Mapping[str, Path],
    validation: Mapping[str, Iterable[Batch]],
    config: WeightsConfig,
    *,
    log: Log = silent,
) -> WeightSearch:
    """Choose the weight of each domain's difference.

    Args:
        base_dir: Folder of the base model.
        diffs: Difference folder of each domain.
        validation: Packed validation batches of the domains the merged model is meant for, usually the same
            names as `diffs`. The first `config.evaluation_rows` rows of each are used, fewer when it holds
            fewer.
        config: `gradient` searches; `fixed` takes `config.fixed`, still measured against the others.

    Raises:
        ValueError: No validation rows, `fixed` does not name exactly the domains of `diffs`, or a difference
            does not belong to the base.
    """
    differences = open_differences(WeightFiles(base_dir), diffs)
    domains = list(differences)
    if config.method == "fixed" and config.fixed.keys() != differences.keys():
        raise ValueError(f"`fixed` must give a weight to exactly {domains}, it names {sorted(config.fixed)}")
    model = WeightedModel(load_model(base_dir), list(differences.values()))
    rows = _collect_rows(validation, config.evaluation_rows, model.weights.device)
    candidates = _standard_candidates(domains)
    curve: list[SearchStep] = []
    if config.method == "fixed":
        candidates["fixed"] = [config.fixed[domain] for domain in domains]
    else:
        candidates["searched"], curve = _follow_gradient(model, domains, rows, config, log)
    losses = _measure(model, candidates, rows, config.batch_size, log)
    means = {name: sum(of_domain.values()) / len(of_domain) for name, of_domain in losses.items()}
    chosen = "fixed" if config.method == "fixed" else min(means, key=lambda name: means[name])
    length = next(iter(rows.values()))[0].shape[1]
    return WeightSearch(
        weights=dict(zip(domains, candidates[chosen], strict=True)),
        chosen=chosen,
        curve=curve,
        candidates=_candidate_table(domains, candidates, losses, means),
        rows={domain: len(inputs) for domain, (inputs, _) in rows.items()},
        search_tokens=sum(min(config.batch_size, len(inputs)) for inputs, _ in rows.values())
        * length
        * len(curve),
    )


def _standard_candidates(domains: list[str]) -> dict[str, list[float]]:
    """What every search is compared with: no edit, all domains alike, each domain alone."""
    candidates = {"base": [0.0] * len(domains), "uniform": [1 / len(domains)] * len(domains)}
    for domain in domains:
        candidates[f"only {domain}"] = [1.0 if other == domain else 0.0 for other in domains]
    return candidates


def _collect_rows(validation: Mapping[str, Iterable[Batch]], wanted: int, device: torch.device) -> Rows:
    if not validation:
        raise ValueError("no validation data given: the weights need at least one domain to be measured on")
    rows = {}
    for domain in sorted(validation):
        inputs: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        for batch in validation[domain]:
            inputs += torch.as_tensor(batch["input_ids"])
            labels += torch.as_tensor(batch["labels"])
            if len(inputs) >= wanted:
                break
        if not inputs:
            raise ValueError(f"the validation data of {domain!r} holds no row: enlarge its validation split")
        rows[domain] = (torch.stack(inputs[:wanted]).to(device), torch.stack(labels[:wanted]).to(device))
    return rows


def _follow_gradient(
    model: WeightedModel, domains: list[str], rows: Rows, config: WeightsConfig, log: Log
) -> tuple[list[float], list[SearchStep]]:
    """Adam on the weights, with a learning rate that falls linearly to zero so that the last steps settle."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        model.weights.fill_(1 / len(domains))
    optimizer = torch.optim.Adam([model.weights], lr=config.learning_rate)
    curve = []
    with Progress(log, "steps of the weight search", total=config.steps) as progress:
        for step in range(config.steps):
            optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - step / config.steps)
            optimizer.zero_grad()
            before = dict(zip(domains, model.weights.tolist(), strict=True))
            total = 0.0
            for inputs, labels in rows.values():
                some = torch.randperm(len(inputs), generator=generator)[: config.batch_size].to(inputs.device)
                loss = model.mean_loss(inputs[some], labels[some]) / len(rows)
                loss.backward()
                total += loss.item()
            optimizer.step()
            curve.append(SearchStep(total, before))
            progress.advance(note=f"loss {total:.4f}")
    return model.weights.tolist(), curve


@torch.no_grad()
def _measure(
    model: WeightedModel, candidates: Mapping[str, list[float]], rows: Rows, batch_size: int, log: Log
) -> dict[str, dict[str, float]]:
    """Loss per token of each candidate on each domain, on all rows."""
    losses: dict[str, dict[str, float]] = {}
    with Progress(log, "candidates measured", total=len(candidates)) as progress:
        for name, weights in candidates.items():
            model.weights.copy_(torch.tensor(weights))
            losses[name] = {
                domain: _mean_over_batches(model, inputs, labels, batch_size)
                for domain, (inputs, labels) in rows.items()
            }
            progress.advance()
    return losses


def _mean_over_batches(
    model: WeightedModel, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> float:
    total, counted = 0.0, 0
    for some, their_labels in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
        tokens = int((their_labels >= 0).sum())  # padding carries a negative label
        total += model.mean_loss(some, their_labels).item() * tokens if tokens else 0.0
        counted += tokens
    return total / counted


def _candidate_table(
    domains: list[str],
    candidates: Mapping[str, list[float]],
    losses: Mapping[str, Mapping[str, float]],
    means: Mapping[str, float],
) -> pa.Table:
    rows = []
    for name, weights in candidates.items():
        of_domain = {f"weight/{domain}": weight for domain, weight in zip(domains, weights, strict=True)}
        measured = {f"nll/{domain}": loss for domain, loss in losses[name].items()}
        rows.append({"candidate": name, "mean_nll": means[name], **of_domain, **measured})
    return pa.Table.from_pylist(rows)

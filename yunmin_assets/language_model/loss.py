"""The loss of a batch and its gradient, in parts that fit into memory and over all ranks.

The loss is the mean negative log-likelihood over all tokens of the *global* batch that carry a label. It is
summed over parts and ranks and divided once, so neither changes it beyond rounding.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from yunmin_assets.language_model.config import TrainingConfig
from yunmin_assets.language_model.ranks import Ranks

Batch = Mapping[str, object]
"""`input_ids` and `labels`, int64 [batch, length]; labels are the inputs shifted by one."""

IGNORED_LABEL = -100  # what cross_entropy leaves out


class BatchLoss(NamedTuple):
    """What one global batch gave."""

    mean: torch.Tensor
    """Nats per token that carries a label, a scalar without gradient."""
    tokens: int
    """Tokens that went through the model."""


def backward(model: nn.Module, batch: Batch, config: TrainingConfig, ranks: Ranks) -> BatchLoss:
    """Leave the gradient of the batch's mean loss in `.grad` of all trained parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    input_ids, labels = _on_device(batch, parameters[0].device)
    counts = ranks.sum(
        torch.stack([(labels != IGNORED_LABEL).sum(), torch.tensor(input_ids.numel()).to(labels)])
    )
    labelled, tokens = counts.tolist()
    total = torch.zeros((), device=labels.device)
    for some, their_labels in _parts(input_ids, labels, config.gradient_accumulation):
        loss = summed_loss(model, some, their_labels, config) / max(labelled, 1)
        loss.backward()
        total += loss.detach()
    if ranks.count > 1:
        for parameter in parameters:
            if parameter.grad is None:  # a rank without rows takes part all the same
                parameter.grad = torch.zeros_like(parameter)
            ranks.sum(parameter.grad)
    return BatchLoss(ranks.sum(total), tokens)


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Batch], config: TrainingConfig, ranks: Ranks) -> float:
    """Nats per token over all batches of all ranks.

    Raises:
        ValueError: No token carries a label, so there is no mean.
    """
    device = next(model.parameters()).device
    total = torch.zeros(2, dtype=torch.float64, device=device)  # nats, tokens
    for batch in batches:
        input_ids, labels = _on_device(batch, device)
        for some, their_labels in _parts(input_ids, labels, config.gradient_accumulation):
            total[0] += summed_loss(model, some, their_labels, config)
            total[1] += (their_labels != IGNORED_LABEL).sum()
    nats, tokens = ranks.sum(total).tolist()
    if not tokens:
        raise ValueError("no token of the validation batches carries a label: give rows with labels, or none")
    return nats / tokens


def summed_loss(
    model: nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, config: TrainingConfig
) -> torch.Tensor:
    """Negative log-likelihood in nats, summed over tokens in float32; labels are already shifted."""
    with _matrix_products(config.precision, input_ids.device):
        logits = model(input_ids=input_ids, use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")


def _matrix_products(precision: str, device: torch.device) -> AbstractContextManager[object]:
    is_bfloat16 = precision == "bfloat16" or (
        precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16)


def _on_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.as_tensor(batch["input_ids"]).to(device), torch.as_tensor(batch["labels"]).to(device)


def _parts(
    input_ids: torch.Tensor, labels: torch.Tensor, count: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The rows cut into so many parts; empty ones are left out, for the last batch of an epoch may be short."""
    for some, their_labels in zip(input_ids.tensor_split(count), labels.tensor_split(count), strict=True):
        if len(some):
            yield some, their_labels

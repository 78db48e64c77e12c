"""A model Θ + Σ wᵢdᵢ whose weights w are a tensor: no merge per candidate, and a gradient on w.

- Factored differences: each adapted linear layer computes base(x) + Σ wᵢ·scaleᵢ·Bᵢ(Aᵢx), with all factors
  stacked into one A and one B, so n domains cost one product of rank n·r.
- If any difference is dense, all are held in full and the touched parameters are summed anew in each forward
  pass. The price: n copies of the touched parameters in memory.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from transformers import PreTrainedModel

from yunmin_assets.dem.difference import Difference


class WeightedModel(nn.Module):
    """The frozen base model edited by weighted differences. `weights` is the only trainable parameter.

    The model that is given is changed: adapted layers are replaced in place.
    """

    def __init__(self, model: PreTrainedModel, differences: Sequence[Difference]):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.weights = nn.Parameter(torch.zeros(len(differences), device=model.device))
        self._dense: dict[str, list[tuple[int, torch.Tensor]]] = {}
        names = sorted({name for difference in differences for name in difference.shapes})
        for name in names:
            touching = [
                (i, difference) for i, difference in enumerate(differences) if name in difference.shapes
            ]
            if all(difference.is_factored for difference in differences):
                self._wrap(name.removesuffix(".weight"), touching)
            else:
                self._dense[name] = [
                    (i, difference.dense(name).to(model.device)) for i, difference in touching
                ]

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [batch, length, vocabulary]."""
        arguments = {"input_ids": input_ids, "use_cache": False}
        if not self._dense:
            return self.model(**arguments).logits.float()
        return functional_call(self.model, self._edited_parameters(), kwargs=arguments).logits.float()

    def mean_loss(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood in nats per token of int64 [batch, length] inputs and shifted labels."""
        return F.cross_entropy(self(input_ids).flatten(0, 1), labels.flatten())

    def _wrap(self, module_name: str, touching: list[tuple[int, Difference]]) -> None:
        parent_name, _, leaf = module_name.rpartition(".")
        parent = self.model.get_submodule(parent_name)
        factors = {i: difference.factors(f"{module_name}.weight") for i, difference in touching}
        setattr(parent, leaf, _WeightedLinear(getattr(parent, leaf), factors, self.weights))

    def _edited_parameters(self) -> dict[str, torch.Tensor]:
        parameters = dict(self.model.named_parameters())
        edited = {}
        for name, differences in self._dense.items():
            total = parameters[name].float()
            for i, difference in differences:
                total = total + self.weights[i] * difference
            edited[name] = total.to(parameters[name].dtype)
        return edited


class _WeightedLinear(nn.Module):
    """base(x) + Σ wᵢ·scaleᵢ·Bᵢ(Aᵢx)."""

    owner: torch.Tensor
    scale: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor

    def __init__(
        self,
        base: nn.Module,
        factors: Mapping[int, tuple[torch.Tensor, torch.Tensor, float]],
        weights: nn.Parameter,
    ):
        super().__init__()
        self.base = base
        self._weights = [weights]  # in a list, so that it is not registered once per layer
        ranks = torch.tensor([a.shape[0] for a, _, _ in factors.values()])
        scales = torch.tensor([scale for _, _, scale in factors.values()])
        self.register_buffer("owner", torch.tensor(list(factors)).repeat_interleave(ranks).to(weights.device))
        self.register_buffer("scale", scales.repeat_interleave(ranks).to(weights.device))
        self.register_buffer("a", torch.cat([a for a, _, _ in factors.values()]).to(weights.device))
        self.register_buffer("b", torch.cat([b for _, b, _ in factors.values()], dim=1).to(weights.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.linear(x.to(self.a.dtype), self.a) * (self._weights[0][self.owner] * self.scale)
        output = self.base(x)
        return output + F.linear(inner, self.b).to(output.dtype)

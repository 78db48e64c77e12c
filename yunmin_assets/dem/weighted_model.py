"""A model Θ + Σ wᵢdᵢ whose weights w are a tensor: no merge per candidate, and a gradient on w.

- Factored differences: each adapted linear layer computes base(x) + Σ wᵢ·scaleᵢ·Bᵢ(Aᵢx), with all factors
  stacked into one A and one B, so n domains cost one product of rank n·r.
- Dense differences are held in full, and the parameters they touch are summed anew in each forward pass.

The price: the base; of factored differences their factors; of each dense one 4 bytes per element it touches, and two
copies more of what is touched while the model runs.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from transformers import PreTrainedModel

from yunmin_assets.dem.difference import Difference, Weight
from yunmin_assets.dem.weight_files import WeightFiles


class _DenseEdit(NamedTuple):
    """What dense differences do to one parameter."""

    column: int
    domains: torch.Tensor
    """int64 [k]: rows of the weights."""
    differences: torch.Tensor
    """float32 [k, *shape of the parameter]."""


class WeightedModel(nn.Module):
    """The frozen base model edited by weighted differences. `weights` is the only trainable parameter.

    `weights` is float32 [domains, tensors]: a domain's single weight stands in all columns of its row, and its
    gradient is the sum of that row's. The model that is given is changed: adapted layers are replaced in place.
    """

    def __init__(self, model: PreTrainedModel, base: WeightFiles, differences: Mapping[str, Difference]):
        """Start at weight 0, the base itself.

        Args:
            model: The base, loaded.
            base: Its weights on the disk, to which dense differences belong.
            differences: By domain; see `open_differences`.

        Raises:
            ValueError: A dense difference touches a tensor that the loaded model does not have by that name, or the
                base stores a tied weight under two names.
        """
        _require_one_name_each(model, base)
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.domains = list(differences)
        self.shapes = {domain: difference.shapes for domain, difference in differences.items()}
        self.tensors = sorted({name for shapes in self.shapes.values() for name in shapes})
        self.weights = nn.Parameter(torch.zeros(len(self.domains), len(self.tensors), device=model.device))
        self._dense: dict[str, _DenseEdit] = {}
        for column, name in enumerate(self.tensors):
            touching = {i: d for i, d in enumerate(differences.values()) if name in d.shapes}
            factored = {i: d for i, d in touching.items() if d.is_factored}
            dense = {i: d.dense(name, base) for i, d in touching.items() if not d.is_factored}
            parameter = self._wrap(column, name, factored) if factored else name
            if dense:
                self._hold(column, parameter, dense)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [batch, length, vocabulary]."""
        arguments = {"input_ids": input_ids, "use_cache": False}
        if not self._dense:
            return self.model(**arguments).logits.float()
        return functional_call(self.model, self._edited_parameters(), kwargs=arguments).logits.float()

    def mean_loss(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood in nats per token of int64 [batch, length] inputs and shifted labels."""
        return F.cross_entropy(self(input_ids).flatten(0, 1), labels.flatten())

    @torch.no_grad()
    def row_losses(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The same, summed over the tokens of each row: float64 [batch]."""
        losses = F.cross_entropy(self(input_ids).flatten(0, 1), labels.flatten(), reduction="none")
        return losses.view(labels.shape).double().sum(dim=1)

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Weight]) -> None:
        """Take over a weight for each domain, or one for each of its tensors."""
        for row, domain in enumerate(self.domains):
            of_domain = weights[domain]
            if isinstance(of_domain, Mapping):
                values = [
                    of_domain.get(name, 0.0) for name in self.tensors
                ]  # of no effect where it touches nothing
                self.weights[row] = torch.tensor(values)
            else:
                self.weights[row] = of_domain

    def _wrap(self, column: int, name: str, factored: Mapping[int, Difference]) -> str:
        """Replace a linear layer, and say what its weight is called from now on."""
        module_name = name.removesuffix(".weight")
        parent_name, _, leaf = module_name.rpartition(".")
        parent = self.model.get_submodule(parent_name)
        factors = {i: difference.factors(name) for i, difference in factored.items()}
        setattr(parent, leaf, _WeightedLinear(getattr(parent, leaf), factors, self.weights, column))
        return f"{module_name}.base.weight"

    def _hold(self, column: int, parameter: str, dense: Mapping[int, torch.Tensor]) -> None:
        if parameter not in self._tensors_by_name():
            raise ValueError(
                f"{type(self.model).__name__} has no parameter {parameter}, which a difference changes: weights cannot "
                "be searched for this architecture, give them with `method: fixed`"
            )
        device = self.weights.device
        self._dense[parameter] = _DenseEdit(
            column, torch.tensor(list(dense), device=device), torch.stack(list(dense.values())).to(device)
        )

    def _edited_parameters(self) -> dict[str, torch.Tensor]:
        values = self._tensors_by_name()
        edited = {}
        for name, edit in self._dense.items():
            change = torch.tensordot(self.weights[edit.domains, edit.column], edit.differences, dims=1)
            edited[name] = (values[name].float() + change).to(values[name].dtype)
        return edited

    def _tensors_by_name(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers; tied ones by all of their names."""
        parameters = self.model.named_parameters(remove_duplicate=False)
        return {**dict(parameters), **dict(self.model.named_buffers(remove_duplicate=False))}


def _require_one_name_each(model: PreTrainedModel, base: WeightFiles) -> None:
    """A parameter of two names would have to be edited twice, by differences that need not agree."""
    name_of: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in base.specs:
            continue
        other = name_of.setdefault(id(parameter), name)
        if other != name:
            raise ValueError(
                f"{base.folder} stores one tied weight under two names, {other} and {name}: take the base over first "
                "with yunmin_assets.dem.base.take_over_base, and train the domains from that one"
            )


class _WeightedLinear(nn.Module):
    """base(x) + Σ wᵢ·scaleᵢ·Bᵢ(Aᵢx)."""

    owner: torch.Tensor
    scale: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor

    def __init__(
        self,
        base: nn.Linear,
        factors: Mapping[int, tuple[torch.Tensor, torch.Tensor, float]],
        weights: nn.Parameter,
        column: int,
    ):
        super().__init__()
        self.base, self._column = base, column
        self._weights = [weights]  # in a list, so that it is not registered once per layer
        ranks = torch.tensor([a.shape[0] for a, _, _ in factors.values()])
        scales = torch.tensor([scale for _, _, scale in factors.values()])
        self.register_buffer("owner", torch.tensor(list(factors)).repeat_interleave(ranks).to(weights.device))
        self.register_buffer("scale", scales.repeat_interleave(ranks).to(weights.device))
        self.register_buffer("a", torch.cat([a for a, _, _ in factors.values()]).to(weights.device))
        self.register_buffer("b", torch.cat([b for _, b, _ in factors.values()], dim=1).to(weights.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.linear(x.to(self.a.dtype), self.a) * self._factor_of_rank()
        output = self.base(x)
        return output + F.linear(inner, self.b).to(output.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The edited weight, for models that read it instead of calling the layer, as Mamba-1 does with `dt_proj`."""
        change = (self.b * self._factor_of_rank()) @ self.a
        return (self.base.weight.float() + change).to(self.base.weight.dtype)

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias

    def _factor_of_rank(self) -> torch.Tensor:
        """float32 [n·r]: weight times scale of the domain that each rank belongs to."""
        return self._weights[0][self.owner, self._column] * self.scale

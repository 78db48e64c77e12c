"""Options of the DEM stage."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from yunmin_assets.config_model import ConfigModel, Location
from yunmin_assets.language_model.config import (
    Count,
    CountOrNone,
    EarlyStoppingConfig,
    ModelConfig,
    Positive,
    TrainingConfig,
)

DEFAULT_DENSITY = 0.2
"""Of TIES and DARE; a fifth, as in the TIES paper."""


class BaseModelConfig(ConfigModel):
    """The model that every domain starts from."""

    path: Location | None = None
    """Folder, or `s3://` prefix, of a Hugging Face causal LM; when absent, a small Mamba is trained from scratch."""
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()


class LoraConfig(ConfigModel):
    """One small model per domain: a LoRA adapter, or all parameters trained."""

    method: Literal["lora", "full"] = "lora"
    """`full` trains every parameter, as the paper does: a difference is then as large as the model, and the
    learning rate should be some ten times lower."""
    rank: Count = 8
    alpha: Positive = 16.0
    target_modules: tuple[str, ...] = ()
    """Empty means the right ones for the architecture: `in_proj` on Mamba, `q_proj` and `v_proj` elsewhere."""
    training: TrainingConfig = TrainingConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()

    @model_validator(mode="after")
    def _no_targets_without_adapters(self) -> Self:
        if self.method == "full" and self.target_modules:
            raise ValueError("target_modules belongs to `method: lora`: `full` trains every parameter")
        return self

    def over_domains(self, count: int, tokens: int, row_tokens: int) -> "LoraConfig":
        """The options of one run over `count` domains on so many tokens, validated as often as theirs.

        Args:
            tokens: On which all of their runs were trained, together.
            row_tokens: Tokens of a row.
        """
        training, stopping = self.training, self.early_stopping
        steps = math.ceil(tokens / (training.batch_size * row_tokens))
        warmup_steps = min(training.warmup_steps, steps)
        return self.model_copy(
            update={
                "training": training.model_copy(update={"steps": steps, "warmup_steps": warmup_steps}),
                "early_stopping": stopping.model_copy(
                    update={"validate_every": stopping.validate_every * count}
                ),
            }
        )


class WeightsConfig(ConfigModel):
    """How the domain weights of Θ_D = Θ + Σ wᵢ(Θᵢ − Θ) are found (arXiv 2406.15570, equation 2)."""

    method: Literal["gradient", "per_module", "tpe", "grid", "fixed"] = "gradient"
    """`gradient` follows the gradient of the loss on one weight per domain, `per_module` on one per domain and
    tensor; `tpe` and `grid` try weights and need no gradient; `fixed` searches nothing."""
    fixed: dict[str, float] = Field(default_factory=dict)
    """Weight per domain for `fixed`."""
    normalize: bool = False
    """Divide the weights of `fixed` by their sum."""
    steps: Count = 40
    """Of `gradient` and `per_module`."""
    batch_size: Count = 4
    """Validation rows of a domain that go through the model at once, and in one step of `gradient`, `per_module`."""
    learning_rate: Positive = 0.05
    """By so much the first steps of `gradient` and `per_module` move a weight; it falls linearly to zero."""
    trials: Count = 64
    """Weights that `tpe` tries, and at most those of `grid`."""
    largest_weight: Positive = 1.0
    """`tpe` and `grid` try weights from 0 to this one."""
    search_rows: Count = 64
    """Validation rows per domain on which weights are searched."""
    comparison_rows: Count = 64
    """Other validation rows per domain on which all candidates are compared."""
    controls: bool = True
    """Also measure a joint adapter and an adapter trained on the search rows, where they are given."""
    seed: CountOrNone = 0

    @model_validator(mode="after")
    def _fixed_weights_belong_to_fixed(self) -> Self:
        if self.method != "fixed" and (self.fixed or self.normalize):
            raise ValueError(f"`fixed` and `normalize` belong to `method: fixed`, not to {self.method}")
        if self.normalize and not sum(self.fixed.values()):
            raise ValueError(
                "normalize: the weights of `fixed` sum to 0, so they cannot be divided by their sum"
            )
        return self


class MergeConfig(ConfigModel):
    """How differences are combined."""

    method: Literal["sum", "ties", "dare", "slerp"] = "sum"
    """`sum` is Θ + Σ wᵢ(Θᵢ − Θ), exactly. `ties` (arXiv 2306.01708) keeps the largest elements of each difference and
    averages those that agree in sign; `dare` (arXiv 2311.03099) drops elements at random and scales up the others;
    `slerp` turns one of two models into the other along an arc. All work tensor by tensor."""
    density: float | None = Field(default=None, gt=0, le=1)
    """Share of a difference's elements that `ties` and `dare` keep; a fifth when it is absent."""
    seed: CountOrNone = 0
    """What `dare` drops."""

    @model_validator(mode="after")
    def _density_belongs_to_dropping(self) -> Self:
        if self.density is not None and self.method not in ("ties", "dare"):
            raise ValueError(f"`density` belongs to `method: ties` and `dare`, not to {self.method}")
        return self

    @property
    def kept_share(self) -> float:
        """`density`, or its default."""
        return DEFAULT_DENSITY if self.density is None else self.density

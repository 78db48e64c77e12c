"""Options of the models that are trained here."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from yunmin_assets.config_model import ConfigModel

Count = Annotated[int, Field(ge=1, strict=True)]  # strict: `true` and 8.0 are no counts
CountOrNone = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

WARMUP_STEPS = 10


def _default_warmup(options: dict[str, Any]) -> int:
    return min(WARMUP_STEPS, options.get("steps", WARMUP_STEPS))


class ModelConfig(ConfigModel):
    """Architecture of a small Mamba that is trained from scratch."""

    architecture: Literal["mamba", "mamba2"] = "mamba2"
    hidden_size: int = Field(default=128, ge=8, strict=True)
    layers: Count = 4
    state_size: Count = 16


class TrainingConfig(ConfigModel):
    """One training run."""

    steps: Count = 200
    batch_size: Count = 8
    """Rows in an optimizer step, over all GPUs together."""
    learning_rate: Positive = 2e-3
    warmup_steps: CountOrNone = Field(default_factory=_default_warmup)
    """By default 10, or all steps when there are fewer."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    gradient_clip: Positive = 1.0
    seed: CountOrNone = 0
    checkpoint_every: Count = 50
    """Optimizer steps between two checkpoints from which a killed run goes on."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products: `auto` is bfloat16 on a GPU that has it, else float32. The loss is always float32."""
    gradient_accumulation: Count = 1
    """Parts in which a batch goes through the model, for less memory; the gradient stays that of the batch."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third more time."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is more than steps {self.steps}: training would end "
                "before the learning rate is reached"
            )
        return self


class EarlyStoppingConfig(ConfigModel):
    """When training ends before its last step; the best parameters that were measured are kept."""

    validate_every: CountOrNone = 20
    """Optimizer steps between two validations; 0 trains every step and keeps the last parameters."""
    patience: Count = 3
    """Validations in a row without a new lowest loss after which training ends."""
    rows: Count = 32
    """Validation rows of each domain, rounded up to whole batches, fewer when it has fewer."""

"""Options of the models that are trained here."""

from typing import Literal

from pydantic import Field

from yunmin_assets.config_model import ConfigModel


class ModelConfig(ConfigModel):
    """Architecture of a small Mamba that is trained from scratch."""

    architecture: Literal["mamba", "mamba2"] = "mamba2"
    hidden_size: int = Field(default=128, ge=8)
    layers: int = Field(default=4, ge=1)
    state_size: int = Field(default=16, ge=1)


class TrainingConfig(ConfigModel):
    """One training run."""

    steps: int = Field(default=200, ge=1)
    batch_size: int = Field(default=8, ge=1)
    """Rows in an optimizer step, over all GPUs together."""
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=10, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    seed: int = 0
    checkpoint_every: int = Field(default=50, ge=1)
    """Optimizer steps between two checkpoints from which a killed run goes on."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products: `auto` is bfloat16 on a GPU that has it, else float32. The loss is always float32."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Parts in which a batch goes through the model, for less memory; the gradient stays that of the batch."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third more time."""


class EarlyStoppingConfig(ConfigModel):
    """When training ends before its last step; the best parameters that were measured are kept."""

    validate_every: int = Field(default=20, ge=0)
    """Optimizer steps between two validations; 0 trains every step and keeps the last parameters."""
    patience: int = Field(default=3, ge=1)
    """Validations in a row without a new lowest loss after which training ends."""
    rows: int = Field(default=32, ge=1)
    """Validation rows of each domain, rounded up to whole batches, fewer when it has fewer."""

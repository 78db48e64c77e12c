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
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=10, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    seed: int = 0
    checkpoint_every: int = Field(default=50, ge=1)
    """Optimizer steps between two checkpoints from which a killed run goes on."""

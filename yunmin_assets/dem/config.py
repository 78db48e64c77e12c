"""Options of the DEM stage."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.language_model.config import EarlyStoppingConfig, ModelConfig, TrainingConfig


class BaseModelConfig(ConfigModel):
    """The model that every domain starts from."""

    path: Path | None = None
    """Folder of a Hugging Face causal LM; when absent, a small Mamba is trained from scratch."""
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()


class LoraConfig(ConfigModel):
    """One small model per domain: a LoRA adapter, or all parameters trained."""

    method: Literal["lora", "full"] = "lora"
    """`full` trains every parameter, as the paper does: a difference is then as large as the model, and the
    learning rate should be some ten times lower."""
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    target_modules: tuple[str, ...] = ()
    """Empty means the right ones for the architecture: `in_proj`, and `x_proj` on Mamba-1."""
    training: TrainingConfig = TrainingConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()

    def over_domains(self, count: int) -> "LoraConfig":
        """The options of one run that is as long as those of `count` domains together, validated as often."""
        stopping = self.early_stopping
        return self.model_copy(
            update={
                "training": self.training.model_copy(update={"steps": self.training.steps * count}),
                "early_stopping": stopping.model_copy(
                    update={"validate_every": stopping.validate_every * count}
                ),
            }
        )


class WeightsConfig(ConfigModel):
    """How the domain weights of Θ_D = Θ + Σ wᵢ(Θᵢ − Θ) are found (arXiv 2406.15570, equation 2)."""

    method: Literal["gradient", "fixed"] = "gradient"
    fixed: dict[str, float] = Field(default_factory=dict)
    """Weight per domain for `fixed`."""
    steps: int = Field(default=40, ge=1)
    batch_size: int = Field(default=4, ge=1)
    """Validation rows per domain in one step of the search."""
    learning_rate: float = Field(default=0.05, gt=0)
    evaluation_rows: int = Field(default=64, ge=1)
    """Validation rows per domain on which candidates are compared."""
    seed: int = 0

"""Options of the DEM stage."""

import math
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.language_model.config import (
    Count,
    CountOrNone,
    EarlyStoppingConfig,
    ModelConfig,
    Positive,
    TrainingConfig,
)


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

    method: Literal["gradient", "fixed"] = "gradient"
    fixed: dict[str, float] = Field(default_factory=dict)
    """Weight per domain for `fixed`."""
    steps: Count = 40
    batch_size: Count = 4
    """Validation rows per domain in one step of the search."""
    learning_rate: Positive = 0.05
    evaluation_rows: Count = 64
    """Validation rows per domain on which candidates are compared."""
    seed: CountOrNone = 0

"""Options of the pruning stage."""

from typing import Literal

from pydantic import Field, model_validator

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.language_model.config import ModelConfig, TrainingConfig


class ReferenceConfig(ConfigModel):
    """The two small models, one per half of the documents, that score each other's half."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()


class PruningConfig(ConfigModel):
    """Which documents are kept by perplexity (arXiv 2405.20541, section 2)."""

    criterion: Literal["low", "medium", "high", "random", "none"] = "medium"
    selection_rate: float = Field(default=0.5, gt=0, le=1)
    """Share of the scored training documents of a domain that is kept."""
    token_budget: int = Field(default=4096, ge=1)
    """Tokens, padding included, in one scoring batch."""
    max_length: int = Field(default=1024, ge=2)
    """Tokens in one scoring window; longer documents are scored in overlapping windows."""
    seed: int = 0
    """Seed of the `random` control."""

    @model_validator(mode="after")
    def _fit_a_window_into_a_batch(self) -> "PruningConfig":
        if self.token_budget < self.max_length:
            raise ValueError(f"token_budget {self.token_budget} is smaller than max_length {self.max_length}")
        return self

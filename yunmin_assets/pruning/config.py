"""Options of the pruning stage."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from yunmin_assets.config_model import ConfigModel, Location
from yunmin_assets.language_model.config import ModelConfig, TrainingConfig

Criterion = Literal["low", "medium", "high", "random", "none"]
SelectionRate = Annotated[float, Field(gt=0, le=1)]


class ReferenceConfig(ConfigModel):
    """Whose perplexities count: two small models, one per half of the documents, or a given checkpoint."""

    path: Location | None = None
    """Folder, or `s3://` prefix, of a Hugging Face causal LM with its tokenizer; it scores both halves, and nothing
    is trained."""
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()


class ScoringConfig(ConfigModel):
    """How documents are scored."""

    token_budget: int = Field(default=4096, ge=1)
    """Tokens, padding included, in one scoring batch."""
    max_length: int = Field(default=1024, ge=2)
    """Tokens in one scoring window; longer documents are scored in overlapping windows."""
    tokens_per_document: int | None = Field(default=None, ge=1)
    """Score only so many tokens from the beginning of each document; None: all of them."""
    score_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in; losses are taken in float32 in any case."""

    @model_validator(mode="after")
    def _fit_a_window_into_a_batch(self) -> "ScoringConfig":
        if self.token_budget < self.max_length:
            raise ValueError(
                f"token_budget {self.token_budget} holds no window of {self.max_length} tokens: "
                "raise it or lower max_length"
            )
        return self

    def scoring_options(self) -> dict[str, object]:
        """What scores depend on, as JSON values."""
        return self.model_dump(mode="json", include=set(ScoringConfig.model_fields))


class PruningConfig(ScoringConfig):
    """How documents are scored, and which are kept by perplexity (arXiv 2405.20541, section 2)."""

    criterion: Criterion = "medium"
    selection_rate: float = Field(default=0.5, gt=0, le=1)
    """Share of the scored training documents that is kept."""
    thresholds: Literal["per_domain", "global"] = "per_domain"
    """Whether that share is one of each domain, or of all documents together: domains then shrink unequally."""
    seed: int = 0
    """Seed of the `random` control."""

    def selection_options(self) -> dict[str, object]:
        """What the choice among scored documents depends on, as JSON values."""
        own = set(PruningConfig.model_fields) - set(ScoringConfig.model_fields)
        return self.model_dump(mode="json", include=own)


class StudyConfig(ConfigModel):
    """Which selections are compared, and by what training: the same for each of them."""

    arms: dict[Criterion, list[SelectionRate]] = Field(
        default={"none": [1.0], "low": [0.5], "medium": [0.5, 0.25], "high": [0.5], "random": [0.5, 0.25]},
        min_length=1,
    )
    """By criterion, the selection rates that are tried; `random` is the control at each of them."""
    seeds: int = Field(default=1, ge=1)
    """Trainings per arm, each with other initial weights, another order and other lots of `random`."""
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    """Of every arm: steps × batch size × row length are its tokens, whatever it selects."""
    documents_per_domain: int = Field(default=100, ge=20)
    """Validation documents per domain on which every arm is measured, chosen by a hash of their id."""
    bootstrap_samples: int = Field(default=1000, ge=10)
    confidence: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _can_be_compared(self) -> "StudyConfig":
        controls = self.arms.get("random", [])
        for criterion, rates in self.arms.items():
            if not rates or len(set(rates)) < len(rates):
                raise ValueError(
                    f"arms.{criterion} is {rates}: name each rate once, or leave {criterion} out"
                )
            if criterion == "none":
                if rates != [1.0]:
                    raise ValueError(f"arms.none is {rates}: it keeps everything, so write none: [1.0]")
            elif missing := [rate for rate in rates if rate not in controls]:
                raise ValueError(
                    f"arms.{criterion} has no random control at {missing[0]:g}: add it to arms.random, "
                    "for only against random documents does a criterion prove itself"
                )
        return self

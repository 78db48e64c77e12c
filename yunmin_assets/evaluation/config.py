"""Options of the evaluation stage."""

from pathlib import Path

from pydantic import Field, model_validator

from yunmin_assets.config_model import ConfigModel, Location


class EvaluationConfig(ConfigModel):
    """What the report measures."""

    documents_per_domain: int = Field(default=100, ge=2)
    """Test documents per domain on which perplexity is measured, chosen by a hash of their id."""
    bootstrap_samples: int = Field(default=1000, ge=10)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    prompts: Location = Path("configs/eval_prompts.jsonl")
    scoring_rules: Location = Path("configs/scoring_rules.yaml")
    max_new_tokens: int = Field(default=96, ge=1)
    """Of a continuation; fewer cut nearly every text before its end."""
    temperature: float = Field(default=0.8, gt=0)
    """Of the sampled continuations; the greedy ones are always made as well."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    ratings: Location | None = None
    """What a person saved from a blind sheet: `ratings.json`. The next report shows whom they prefer."""
    benchmarks: Location | None = None
    """Folder of multiple-choice benchmarks as JSONL: KoBEST, KMMLU, HAE-RAE, CLIcK; see docs/evaluation.md."""
    benchmark_items: int = Field(default=500, ge=1)
    """Items asked per benchmark, chosen by their content, the same for every model."""
    contamination_ngram: int = Field(default=13, ge=1)
    """Characters in a row, blanks not counted, that an evaluation item must share with the training text to count as
    contaminated."""
    token_budget: int = Field(default=4096, ge=1)
    """Tokens, padding included, in one scoring batch; at least `max_length`."""
    max_length: int = Field(default=1024, ge=2)
    """Tokens in one scoring window; longer documents are scored in overlapping windows."""
    seed: int = 0

    @model_validator(mode="after")
    def _fit_a_window_into_a_batch(self) -> "EvaluationConfig":
        if self.token_budget < self.max_length:
            raise ValueError(f"token_budget {self.token_budget} is smaller than max_length {self.max_length}")
        return self

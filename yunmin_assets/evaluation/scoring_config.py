"""What `configs/scoring_rules.yaml` may say, checked key by key."""

from pathlib import Path
from typing import Literal, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from yunmin_assets.config_model import ConfigModel

RuleName = Literal[
    "intact",
    "hangul",
    "fluency",
    "repetition",
    "parroting",
    "sameness",
    "topic",
    "register",
    "length",
    "format",
    "code",
    "stop",
]
JUDGE_EVERY_TEXT: frozenset[RuleName] = frozenset(("intact", "repetition", "parroting", "length", "stop"))
"""The other rules have nothing to say about some texts: the register of a text with one sentence, for example."""


class Ramp(ConfigModel):
    """Turns a measured value into a score: `lowest` at `zero` and before, 1 at `full` and beyond, a line between."""

    zero: float
    full: float
    lowest: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if self.zero == self.full:
            raise ValueError(f"zero and full are both {self.zero}: they must differ")
        return self

    def score(self, value: float) -> float:
        """Between `lowest` and 1; `zero` may lie above `full`, then less is better."""
        share = min(1.0, max(0.0, (value - self.zero) / (self.full - self.zero)))
        return self.lowest + (1 - self.lowest) * share


class Format(ConfigModel):
    """The shape that a kind of text has; the rule measures the share of these demands that are met."""

    lines_at_least: int | None = Field(default=None, ge=1)
    lines_at_most: int | None = Field(default=None, ge=1)
    line_characters_at_most: int | None = Field(default=None, ge=1)
    sentences_at_least: int | None = Field(default=None, ge=1)
    sentences_at_most: int | None = Field(default=None, ge=1)
    share_of_prompt_at_most: float | None = Field(default=None, gt=0)


class Kind(ConfigModel):
    """What is expected of one kind of prompt."""

    title: str = Field(min_length=1)
    """For people."""
    characters: int = Field(ge=1)
    """Without white space: what a full answer takes at least where the prompt has no reference."""
    format: Format | None = None
    is_code: bool = False
    """The answer is to be program code; what stands in quotes may be any Hangul then."""
    leave_out: frozenset[RuleName] = frozenset()
    """Rules that make no sense for this kind."""


class Criterion(ConfigModel):
    """One of the owner's criteria: a name and a question for people, weights of the rules for the machine."""

    title: str = Field(min_length=1)
    question: str = Field(min_length=1)
    weights: dict[RuleName, float] = Field(min_length=1)

    @model_validator(mode="after")
    def _weights_weigh(self) -> Self:
        for rule, weight in self.weights.items():
            if not weight > 0:
                raise ValueError(
                    f"the weight of {rule} is {weight}, must be above 0; leave the rule out instead"
                )
        return self


class ScoringRules(ConfigModel):
    """Criteria, how each rule's measure becomes a score, and what the kinds of prompts expect."""

    criteria: dict[str, Criterion] = Field(min_length=1)
    rules: dict[RuleName, Ramp]
    kinds: dict[str, Kind]

    @model_validator(mode="after")
    def _every_criterion_can_be_judged(self) -> Self:
        if missing := [rule for rule in get_args(RuleName) if rule not in self.rules]:
            raise ValueError(f"rules.{missing[0]} is missing")
        for criterion, options in self.criteria.items():
            for kind, expected in self.kinds.items():
                if not JUDGE_EVERY_TEXT & options.weights.keys() - expected.leave_out:
                    raise ValueError(
                        f"criteria.{criterion}.weights has no rule that judges every text of kind {kind}: "
                        f"add one of {', '.join(sorted(JUDGE_EVERY_TEXT))}"
                    )
        return self


def load_scoring_rules(path: Path) -> ScoringRules:
    """Read and check the scoring rules.

    Raises:
        ValueError: The file is no YAML, or a key is missing, unknown or ill-typed; names file and key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must have the keys criteria, rules and kinds")
    try:
        return ScoringRules(**values)
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{path}: {places}") from error

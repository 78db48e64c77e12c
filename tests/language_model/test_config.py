"""Options that make no sense are refused before any work starts."""

import math

import pytest
from pydantic import ValidationError

from yunmin_assets.dem.config import LoraConfig, WeightsConfig
from yunmin_assets.language_model import ModelConfig, TrainingConfig


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (TrainingConfig, {"learning_rate": math.inf}),
        (TrainingConfig, {"weight_decay": math.inf}),
        (TrainingConfig, {"gradient_clip": math.inf}),
        (TrainingConfig, {"seed": -1}),
        (TrainingConfig, {"steps": True}),
        (TrainingConfig, {"batch_size": 8.0}),
        (TrainingConfig, {"steps": 20, "warmup_steps": 21}),
        (ModelConfig, {"layers": True}),
        (LoraConfig, {"alpha": math.inf}),
        (LoraConfig, {"method": "full", "target_modules": ("in_proj",)}),
        (WeightsConfig, {"learning_rate": math.inf}),
        (WeightsConfig, {"seed": -1}),
    ],
)
def test_nonsense_is_refused_by_name(config, options):
    with pytest.raises(ValidationError, match=list(options)[-1]):
        config(**options)


def test_the_default_warm_up_is_no_longer_than_the_run():
    assert TrainingConfig(steps=4).warmup_steps == 4
    assert TrainingConfig(steps=20).warmup_steps == TrainingConfig().warmup_steps == 10
    short = TrainingConfig(steps=4)
    assert TrainingConfig.model_validate_json(short.model_dump_json()) == short

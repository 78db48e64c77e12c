"""Small causal language models: build, train with exact resume, generate.

Shared by the pruning stage (reference models), the DEM stage (base model, adapters) and the evaluation.
"""

from typing import TYPE_CHECKING

from yunmin_assets.language_model.config import EarlyStoppingConfig, ModelConfig, TrainingConfig
from yunmin_assets.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from yunmin_assets.language_model.architecture import build_model, load_model, lora_target_modules
    from yunmin_assets.language_model.generation import generate
    from yunmin_assets.language_model.pretraining import train_from_scratch
    from yunmin_assets.language_model.tokenizer import load_tokenizer
    from yunmin_assets.language_model.training import Batches, TrainingResult, Validation, train

_MODULE_OF = {
    "Batches": "training",
    "TrainingResult": "training",
    "Validation": "training",
    "build_model": "architecture",
    "generate": "generation",
    "load_model": "architecture",
    "load_tokenizer": "tokenizer",
    "lora_target_modules": "architecture",
    "train": "training",
    "train_from_scratch": "pretraining",
}

__all__ = [
    "Batches",
    "EarlyStoppingConfig",
    "ModelConfig",
    "TrainingConfig",
    "TrainingResult",
    "Validation",
    "build_model",
    "generate",
    "load_model",
    "load_tokenizer",
    "lora_target_modules",
    "train",
    "train_from_scratch",
]

__getattr__ = lazy_exports(__name__, _MODULE_OF)

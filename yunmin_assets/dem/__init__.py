"""DEM, Distribution Edited Model: Θ_D = Θ + Σ wᵢ(Θᵢ − Θ) (arXiv 2406.15570).

The project's brief spells DEM out as "Data Efficiency Method"; the method is the paper's. Training the models
Θᵢ as LoRA adapters instead of full fine-tunes is this project's variation; both kinds of difference work
here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from yunmin_assets.dem.config import BaseModelConfig, LoraConfig, WeightsConfig

if TYPE_CHECKING:
    from yunmin_assets.dem.adapter import train_adapter
    from yunmin_assets.dem.difference import Difference, cosine_matrix, diff_adapter, diff_checkpoint
    from yunmin_assets.dem.merge import merge_checkpoints
    from yunmin_assets.dem.weights import WeightSearch, search_weights

_MODULE_OF = {
    "Difference": "difference",
    "WeightSearch": "weights",
    "cosine_matrix": "difference",
    "diff_adapter": "difference",
    "diff_checkpoint": "difference",
    "merge_checkpoints": "merge",
    "search_weights": "weights",
    "train_adapter": "adapter",
}

__all__ = [
    "BaseModelConfig",
    "Difference",
    "LoraConfig",
    "WeightSearch",
    "WeightsConfig",
    "cosine_matrix",
    "diff_adapter",
    "diff_checkpoint",
    "merge_checkpoints",
    "search_weights",
    "train_adapter",
]


def __getattr__(name: str) -> object:
    """Import torch, transformers and peft only when a name that needs them is used (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)

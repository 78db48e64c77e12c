"""DEM, Distribution Edited Model: Θ_D = Θ + Σ wᵢ(Θᵢ − Θ) (arXiv 2406.15570).

The project's brief spells DEM out as "Data Efficiency Method"; the method is the paper's. Training the models
Θᵢ as LoRA adapters instead of full fine-tunes is this project's variation; both kinds of difference work
here.
"""

from typing import TYPE_CHECKING

from yunmin_assets.dem.config import BaseModelConfig, LoraConfig, MergeConfig, WeightsConfig
from yunmin_assets.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from yunmin_assets.dem.adapter import train_adapter
    from yunmin_assets.dem.adapter_job import AdapterJob, run_adapter_job
    from yunmin_assets.dem.difference import Difference, Weight
    from yunmin_assets.dem.difference_making import diff_adapter, diff_checkpoint, diff_domain_model
    from yunmin_assets.dem.difference_statistics import cosine_matrix
    from yunmin_assets.dem.merge import MergeResult, merge_checkpoints
    from yunmin_assets.dem.search_controls import Spent
    from yunmin_assets.dem.weights import WeightSearch, search_weights

_MODULE_OF = {
    "AdapterJob": "adapter_job",
    "Difference": "difference",
    "MergeResult": "merge",
    "Spent": "search_controls",
    "Weight": "difference",
    "WeightSearch": "weights",
    "cosine_matrix": "difference_statistics",
    "diff_adapter": "difference_making",
    "diff_checkpoint": "difference_making",
    "diff_domain_model": "difference_making",
    "merge_checkpoints": "merge",
    "run_adapter_job": "adapter_job",
    "search_weights": "weights",
    "train_adapter": "adapter",
}

__all__ = [
    "AdapterJob",
    "BaseModelConfig",
    "Difference",
    "LoraConfig",
    "MergeConfig",
    "MergeResult",
    "Spent",
    "Weight",
    "WeightSearch",
    "WeightsConfig",
    "cosine_matrix",
    "diff_adapter",
    "diff_checkpoint",
    "diff_domain_model",
    "merge_checkpoints",
    "run_adapter_job",
    "search_weights",
    "train_adapter",
]

__getattr__ = lazy_exports(__name__, _MODULE_OF)

"""One LoRA adapter (arXiv 2106.09685) per domain, trained with exact resume and saved in peft's own format.

Beside peft's two files the folder holds `base.json` with the SHA-256 of the base weights, so that the adapter
is never taken for the difference to another base.
"""

import json
from pathlib import Path

import peft
import torch
from transformers import PreTrainedModel

from yunmin_assets.dem.config import LoraConfig
from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.files import new_folder
from yunmin_assets.language_model.architecture import load_model, lora_target_modules
from yunmin_assets.language_model.training import Batches, TrainingResult, train
from yunmin_assets.progress import Log, silent

BASE_FILE = "base.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def train_adapter(
    base_dir: Path,
    batches: Batches,
    config: LoraConfig,
    out_dir: Path,
    checkpoint_dir: Path,
    *,
    log: Log = silent,
) -> TrainingResult:
    """Train a LoRA adapter on one domain and write it to `out_dir`, whole or not at all.

    Args:
        base_dir: Hugging Face folder of the base model, which is not changed.
        batches: Packed batches of the domain.
        config: Rank, alpha, target modules and training options; `config.training.seed` seeds the
            initialisation.
        out_dir: Must be absent or empty.
        checkpoint_dir: Where a killed run is continued from; can be removed afterwards.

    Raises:
        ValueError: A target module cannot be adapted; see `lora_target_modules`.
        RuntimeError: An adapter matrix does not train; see `train`.
        FileExistsError, FloatingPointError: See `new_folder`, `train`.
    """
    base_hash = WeightFiles(base_dir).sha256()
    model = attach_adapter(load_model(base_dir), config)
    identity = f"adapter of base {base_hash}: {config.model_dump_json(exclude={'training'})}"
    with new_folder(out_dir) as part:
        result = train(model, batches, config.training, checkpoint_dir, identity=identity, log=log)
        model.save_pretrained(part, save_embedding_layers=False)
        (part / "README.md").unlink()  # peft's empty model card
        _make_reproducible(part / ADAPTER_CONFIG)
        (part / BASE_FILE).write_text(json.dumps({"base_sha256": base_hash}) + "\n")
    return result


def attach_adapter(model: PreTrainedModel, config: LoraConfig) -> peft.PeftModel:
    """Freeze the model and add seeded LoRA matrices to its target modules."""
    targets = lora_target_modules(model, config.target_modules)
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=targets,
        lora_dropout=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        return peft.get_peft_model(model, lora)


def _make_reproducible(path: Path) -> None:
    """Sort what peft writes in the order of a set, and drop the local path of the base model."""
    adapter_config = json.loads(path.read_text())
    adapter_config["target_modules"].sort()
    adapter_config["base_model_name_or_path"] = None
    path.write_text(json.dumps(adapter_config, indent=2, sort_keys=True) + "\n")

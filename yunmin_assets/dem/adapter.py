"""One small model per domain: a LoRA adapter (arXiv 2106.09685) of the base, or the base trained whole.

An adapter is saved in peft's own format, a whole model as a Hugging Face folder in float32. Either holds
`base.json` with the fingerprint of the base weights, so that it is never taken for the difference to another base.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peft
import torch
from transformers import PreTrainedModel

from yunmin_assets.dem.config import LoraConfig
from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.files import new_folder
from yunmin_assets.language_model.architecture import load_model, lora_target_modules
from yunmin_assets.language_model.ranks import ALONE, Ranks
from yunmin_assets.language_model.tokenizer import copy_tokenizer
from yunmin_assets.language_model.training import (
    Batches,
    Report,
    TrainingResult,
    Validation,
    no_report,
    train,
)
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
    tokens: int | None = None,
    validation: Validation | None = None,
    ranks: Ranks = ALONE,
    log: Log = silent,
    report: Report = no_report,
) -> TrainingResult:
    """Train a domain's adapter, or its whole model, and write it to `out_dir`, whole or not at all.

    Args:
        base_dir: Hugging Face folder of the base model, which is not changed.
        batches: Packed batches of the domain.
        config: Method and training options; `config.training.seed` seeds the initialisation.
        out_dir: Must be absent or empty.
        checkpoint_dir: Where a killed run is continued from; can be removed afterwards.
        tokens, validation, ranks, log, report: See `train`.

    Raises:
        ValueError: A target module cannot be adapted; see `lora_target_modules`.
        RuntimeError: An adapter matrix does not train; see `train`.
        FileExistsError, FloatingPointError, OSError: See `new_folder`, `train`.
    """
    fingerprint = WeightFiles(base_dir).fingerprint()
    model = load_model(base_dir)
    trained = attach_adapter(model, config) if config.method == "lora" else _unfrozen(model)
    identity = (
        f"adapter of base {fingerprint}: {config.model_dump_json(exclude={'training', 'early_stopping'})}"
    )
    with _output(out_dir, ranks) as part:
        result = train(
            trained,
            batches,
            config.training,
            checkpoint_dir,
            identity=identity,
            tokens=tokens,
            validation=validation,
            ranks=ranks,
            log=log,
            report=report,
        )
        if part is not None:
            _save(trained, base_dir, part)
            (part / BASE_FILE).write_text(json.dumps({"base_fingerprint": fingerprint}) + "\n")
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


def _unfrozen(model: PreTrainedModel) -> PreTrainedModel:
    """The model with every parameter to be trained, in float32: bfloat16 would round small steps away."""
    return model.float().requires_grad_(True)


@contextmanager
def _output(out_dir: Path, ranks: Ranks) -> Iterator[Path | None]:
    """The folder to write to, on the first of the ranks; None on the others."""
    if ranks.is_first:
        with new_folder(out_dir) as part:
            yield part
    else:
        yield None


def _save(trained: PreTrainedModel | peft.PeftModel, base_dir: Path, part: Path) -> None:
    if isinstance(trained, peft.PeftModel):
        trained.save_pretrained(part, save_embedding_layers=False)
        (part / "README.md").unlink()  # peft's empty model card
        _make_reproducible(part / ADAPTER_CONFIG)
    else:
        trained.save_pretrained(part)
        copy_tokenizer(base_dir, part)


def _make_reproducible(path: Path) -> None:
    """Sort what peft writes in the order of a set, and drop the local path of the base model."""
    adapter_config = json.loads(path.read_text())
    adapter_config["target_modules"].sort()
    adapter_config["base_model_name_or_path"] = None
    path.write_text(json.dumps(adapter_config, indent=2, sort_keys=True) + "\n")

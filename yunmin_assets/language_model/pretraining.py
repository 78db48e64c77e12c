"""Train a small Mamba from random weights into a Hugging Face folder with its tokenizer."""

from pathlib import Path

from yunmin_assets.files import new_folder
from yunmin_assets.language_model.architecture import build_model
from yunmin_assets.language_model.config import ModelConfig, TrainingConfig
from yunmin_assets.language_model.tokenizer import copy_tokenizer, load_tokenizer, vocabulary_size
from yunmin_assets.language_model.training import Batches, Report, TrainingResult, no_report, train
from yunmin_assets.progress import Log, silent


def train_from_scratch(
    batches: Batches,
    model_config: ModelConfig,
    training: TrainingConfig,
    tokenizer_dir: Path,
    out_dir: Path,
    checkpoint_dir: Path,
    *,
    log: Log = silent,
    report: Report = no_report,
) -> TrainingResult:
    """Train a new model and write config, weights and tokenizer to `out_dir`, whole or not at all.

    Args:
        batches: Packed batches made with the tokenizer of `tokenizer_dir`.
        model_config: Architecture; `training.seed` seeds its initialisation.
        training: Steps, learning rate and so on.
        tokenizer_dir: Hugging Face tokenizer; gives the vocabulary size and the end-of-text id.
        out_dir: Must be absent or empty.
        checkpoint_dir: Where a killed run is continued from; can be removed afterwards.
        report: Receives the losses while they come in.

    Raises:
        FileExistsError: `out_dir` holds something.
        FloatingPointError, ValueError, OSError: See `train`.
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    vocab_size = vocabulary_size(tokenizer)
    model = build_model(model_config, vocab_size, tokenizer.eos_token_id, training.seed)
    with new_folder(out_dir) as part:
        identity = f"from scratch: {model_config.model_dump_json()}, vocabulary {vocab_size}"
        result = train(model, batches, training, checkpoint_dir, identity=identity, log=log, report=report)
        model.save_pretrained(part)
        copy_tokenizer(tokenizer_dir, part)
    return result

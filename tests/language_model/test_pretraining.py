"""Training from scratch leaves a complete, reproducible model folder."""

import pytest
import torch

from tests.columnar.toy_domain import with_gap_in_ids
from tests.language_model.toy import folder_bytes, save_toy_tokenizer, toy_batches
from yunmin_assets.language_model import (
    ModelConfig,
    TrainingConfig,
    load_model,
    load_tokenizer,
    train_from_scratch,
)

MODEL = ModelConfig(architecture="mamba2", hidden_size=32, layers=2, state_size=4)
TRAINING = TrainingConfig(steps=4, warmup_steps=1, checkpoint_every=2)


def test_the_folder_holds_model_and_tokenizer_and_is_the_same_every_time(tmp_path):
    tokenizer = save_toy_tokenizer(tmp_path / "tokenizer")
    for name in ("first", "second"):
        batches = toy_batches(tokenizer, "law")
        checkpoints = tmp_path / f"{name} checkpoints"
        train_from_scratch(batches, MODEL, TRAINING, tmp_path / "tokenizer", tmp_path / name, checkpoints)
    assert folder_bytes(tmp_path / "first") == folder_bytes(tmp_path / "second")
    assert load_model(tmp_path / "first").config.vocab_size == len(load_tokenizer(tmp_path / "first")) == 300


def test_a_gap_in_the_ids_of_the_tokenizer_gets_embeddings_too(tmp_path):
    save_toy_tokenizer(tmp_path / "plain")
    folder = with_gap_in_ids(tmp_path / "plain", tmp_path / "tokenizer")
    batches = toy_batches(load_tokenizer(folder), "law")
    train_from_scratch(batches, MODEL, TRAINING, folder, tmp_path / "model", tmp_path / "checkpoints")
    assert load_model(tmp_path / "model").config.vocab_size == 310


def test_an_output_folder_in_use_is_refused_before_training(tmp_path):
    tokenizer = save_toy_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "something").touch()
    with pytest.raises(FileExistsError, match="already holds something"):
        train_from_scratch(
            toy_batches(tokenizer, "law"),
            MODEL,
            TRAINING,
            tmp_path / "tokenizer",
            tmp_path / "out",
            tmp_path / "c",
        )
    assert not (tmp_path / "c").exists()


def test_a_failed_run_leaves_no_output(tmp_path):
    tokenizer = save_toy_tokenizer(tmp_path / "tokenizer")
    batches = toy_batches(tokenizer, "law")
    batches.rows = torch.full_like(batches.rows, len(tokenizer))  # ids the model does not have
    with pytest.raises(IndexError):
        train_from_scratch(batches, MODEL, TRAINING, tmp_path / "tokenizer", tmp_path / "out", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer"]


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path):
    tokenizer = save_toy_tokenizer(tmp_path)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no eos_token"):
        load_tokenizer(tmp_path)

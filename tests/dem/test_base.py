"""A base model is taken over when it has an embedding for every id of the tokenizer."""

import shutil
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.columnar.toy_domain import with_gap_in_ids
from tests.language_model.toy import VOCABULARY, save_toy_tokenizer
from yunmin_assets.dem.base import describe_base, take_over_base


def save_llama(folder: Path, vocab_size: int) -> Path:
    """A tiny model without a tokenizer."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes)).save_pretrained(folder)
    return folder


def test_gaps_in_the_ids_need_embeddings_too(tmp_path: Path) -> None:
    save_toy_tokenizer(tmp_path / "plain")
    tokenizer = with_gap_in_ids(tmp_path / "plain", tmp_path / "tokenizer")
    narrow = save_llama(tmp_path / "narrow", VOCABULARY)
    with pytest.raises(ValueError, match=r"the tokenizer needs 310 embeddings but .*narrow has 300: set"):
        take_over_base(narrow, tokenizer, tmp_path / "refused")
    take_over_base(save_llama(tmp_path / "wide", VOCABULARY + 10), tokenizer, tmp_path / "model")
    facts, fits = describe_base(tmp_path / "model")
    assert fits and facts["tokenizer_size"] == facts["vocab_size"] == 310


def test_a_model_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    source = save_llama(tmp_path / "source", VOCABULARY + 10)
    save_toy_tokenizer(tmp_path / "plain")
    tokenizer = with_gap_in_ids(tmp_path / "plain", tmp_path / "tokenizer")
    shutil.copytree(tmp_path / "plain", source, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"was trained with another tokenizer: set tokenizer.path to"):
        take_over_base(source, tokenizer, tmp_path / "model")

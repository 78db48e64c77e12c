"""Tiny tokenizer, models and batches for the tests of models. The texts are synthetic."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from yunmin_assets.language_model import ModelConfig, build_model

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 300
TOY_LENGTH = 24

TEMPLATES = {
    "law": ("제{}조 모든 국민은 법률이 정하는 바에 따라 권리를 가진다.", "법원은 제{}항에 따라 판결한다."),
    "food": ("김치찌개는 {}분 동안 끓인다.", "된장 {}숟가락과 두부를 넣는다."),
    "travel": ("부산행 기차는 {}시에 떠난다.", "제주도까지 비행기로 {}분 걸린다."),
}


@contextmanager
def one_thread() -> Iterator[None]:
    """Toy tensors gain nothing from a second thread, and on a busy machine lose much by waiting for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def toy_texts(domain: str, count: int) -> list[str]:
    """Synthetic Korean sentences of a domain, the same in every run."""
    choice = random.Random(domain)
    return [choice.choice(TEMPLATES[domain]).format(choice.randint(1, 99)) for _ in range(count)]


def save_toy_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 300 tokens and save it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for domain in TEMPLATES for text in toy_texts(domain, 50)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return fast


def toy_model(architecture: str, seed: int = 0) -> PreTrainedModel:
    """A random model of hidden size 32 and 2 layers: mamba, mamba2 or llama."""
    if architecture == "llama":
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
        return LlamaForCausalLM(config)
    config = ModelConfig(architecture=architecture, hidden_size=32, layers=2, state_size=4)
    return build_model(config, VOCABULARY, eos_id=0, seed=seed)


def save_toy_model(folder: Path, architecture: str, seed: int = 0) -> Path:
    """A folder with model and tokenizer."""
    toy_model(architecture, seed).save_pretrained(folder)
    save_toy_tokenizer(folder)
    return folder


class ToyBatches:
    """An endless stream over in-memory rows that knows its position, as `train` wants it."""

    def __init__(self, rows: torch.Tensor, batch_size: int = 4):
        self.rows, self.batch_size, self.position = rows, batch_size, 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            generator = torch.Generator().manual_seed(self.position)
            chosen = self.rows[torch.randint(len(self.rows), (self.batch_size,), generator=generator)]
            self.position += 1
            yield {"input_ids": chosen[:, :-1], "labels": chosen[:, 1:]}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def packed_rows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """int64 [rows, TOY_LENGTH + 1]: documents one after the other, each ended by the end-of-text token."""
    ids = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    usable = len(ids) // (TOY_LENGTH + 1) * (TOY_LENGTH + 1)
    return torch.tensor(ids[:usable]).view(-1, TOY_LENGTH + 1)


def toy_batches(tokenizer: PreTrainedTokenizerFast, domain: str) -> ToyBatches:
    """Batches of a domain's synthetic sentences."""
    return ToyBatches(packed_rows(tokenizer, toy_texts(domain, 60)))


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}

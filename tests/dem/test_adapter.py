"""An adapter learns its domain, is peft's own format, and is the same bytes every time."""

import json

import peft
import pytest
import torch

from tests.dem.conftest import LORA
from tests.language_model.toy import ToyBatches, folder_bytes, toy_batches
from yunmin_assets.dem import train_adapter
from yunmin_assets.language_model import load_model, load_tokenizer

LOWERED_BY = 0.02  # nats per token; query and value adapters of a random Llama do little else


def test_every_adapter_lowers_the_loss_of_its_own_domain(trained):
    for domain, result in trained.results.items():
        assert sum(result.losses[-3:]) / 3 < sum(result.losses[:3]) / 3 - LOWERED_BY, domain


@torch.no_grad()
def test_peft_loads_the_adapter_and_the_loss_on_its_domain_falls(trained):
    tokenizer = load_tokenizer(trained.base)
    for domain, folder in trained.adapters.items():
        batch = next(iter(toy_batches(tokenizer, domain)))
        rows = torch.cat([batch["input_ids"], batch["labels"][:, -1:]], dim=1)
        before = load_model(trained.base)(rows, labels=rows).loss
        adapted = peft.PeftModel.from_pretrained(load_model(trained.base), folder)
        assert adapted(rows, labels=rows).loss < before - LOWERED_BY, domain


def test_the_same_run_gives_the_same_bytes_without_a_local_path(mamba2, tmp_path):
    batches = toy_batches(load_tokenizer(mamba2.base), "law")
    train_adapter(mamba2.base, batches, LORA, tmp_path / "again", tmp_path / "state")
    written = folder_bytes(tmp_path / "again")
    assert written == folder_bytes(mamba2.adapters["law"])
    assert sorted(written) == ["adapter_config.json", "adapter_model.safetensors", "base.json"]
    assert json.loads(written["adapter_config.json"])["base_model_name_or_path"] is None


def test_an_interrupted_adapter_resumes_to_the_same_bytes(mamba2, tmp_path):
    class Stopping(ToyBatches):
        def __iter__(self):
            for batch in super().__iter__():
                if self.position > 8:
                    raise InterruptedError
                yield batch

    batches = toy_batches(load_tokenizer(mamba2.base), "law")
    with pytest.raises(InterruptedError):
        train_adapter(mamba2.base, Stopping(batches.rows), LORA, tmp_path / "adapter", tmp_path / "state")
    result = train_adapter(mamba2.base, batches, LORA, tmp_path / "adapter", tmp_path / "state")
    assert result.resumed_at == 6
    assert folder_bytes(tmp_path / "adapter") == folder_bytes(mamba2.adapters["law"])


def test_a_checkpoint_of_another_base_is_not_continued(mamba2, tmp_path):
    tokenizer = load_tokenizer(mamba2.base)
    train_adapter(mamba2.base, toy_batches(tokenizer, "law"), LORA, tmp_path / "adapter", tmp_path / "state")
    other = load_model(mamba2.base)
    with torch.no_grad():
        other.backbone.norm_f.weight[0] += 1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="made by another run"):
        train_adapter(
            tmp_path / "other", toy_batches(tokenizer, "law"), LORA, tmp_path / "new", tmp_path / "state"
        )


def test_a_target_that_cannot_be_adapted_is_refused(mamba2, tmp_path):
    config = LORA.model_copy(update={"target_modules": ("out_proj",)})
    batches = toy_batches(load_tokenizer(mamba2.base), "law")
    with pytest.raises(ValueError, match="no LoRA adapter on 'out_proj'"):
        train_adapter(mamba2.base, batches, config, tmp_path / "adapter", tmp_path / "state")

"""Trained toy adapters and their differences, made once per architecture."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.language_model.toy import TEMPLATES, one_thread, save_toy_model, toy_batches
from yunmin_assets.dem import LoraConfig, diff_adapter, train_adapter
from yunmin_assets.language_model import TrainingConfig, TrainingResult, load_tokenizer

LORA = LoraConfig(
    rank=4,
    alpha=8.0,
    training=TrainingConfig(steps=12, warmup_steps=2, learning_rate=2e-2, checkpoint_every=6, seed=3),
)


@dataclass(frozen=True)
class Trained:
    """A random base with one trained adapter and one factored difference per domain."""

    base: Path
    adapters: dict[str, Path]
    diffs: dict[str, Path]
    results: dict[str, TrainingResult]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


def train_all(folder: Path, architecture: str) -> Trained:
    base = save_toy_model(folder / "base", architecture)
    tokenizer = load_tokenizer(base)
    adapters = {domain: folder / f"adapter {domain}" for domain in TEMPLATES}
    diffs = {domain: folder / f"diff {domain}" for domain in TEMPLATES}
    results = {}
    with one_thread():  # also here, because fixtures of the session come before those of the module
        for domain in TEMPLATES:
            batches, checkpoint = toy_batches(tokenizer, domain), folder / f"state {domain}"
            results[domain] = train_adapter(base, batches, LORA, adapters[domain], checkpoint)
            diff_adapter(base, adapters[domain], diffs[domain])
    return Trained(base, adapters, diffs, results)


@pytest.fixture(scope="session", params=["mamba", "mamba2", "llama"])
def trained(request, tmp_path_factory) -> Trained:
    """Each architecture in turn."""
    return train_all(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def mamba2(tmp_path_factory) -> Trained:
    """The default architecture only."""
    return train_all(tmp_path_factory.mktemp("only-mamba2"), "mamba2")

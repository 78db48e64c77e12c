"""Losses without all the logits: exact, for output layers of any kind, and without a trace on the model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GraniteConfig, GraniteForCausalLM

from tests.language_model.toy import VOCABULARY, toy_model
from yunmin_assets.pruning.losses import WindowLosses, has_linear_head, token_losses
from yunmin_assets.pruning.windows import batches_of, windows_of


def scaled_model() -> GraniteForCausalLM:
    """A model that divides its logits."""
    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        logits_scaling=0.25,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GraniteForCausalLM(config).eval()


@pytest.mark.parametrize("size", [0.1, 1.0, 100.0])
def test_losses_are_the_cross_entropy(size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(700, 16, generator=generator) * size
    head = nn.Linear(16, 5000, bias=True)
    targets = torch.randint(5000, (700,), generator=generator)
    with torch.no_grad():
        expected = F.cross_entropy(head(hidden).double(), targets, reduction="none")
        found = token_losses(hidden, head, targets)
    tolerance = 1e-5 if size < 100 else 1e-4  # a float32 logit of 300 is itself known to 3e-5
    np.testing.assert_allclose(found.double(), expected, rtol=1e-6, atol=tolerance)


def test_a_head_that_does_more_than_multiply_is_noticed_and_scored_by_its_own_logits() -> None:
    assert all(has_linear_head(toy_model(kind).eval()) for kind in ("mamba", "mamba2", "llama"))
    model = scaled_model()
    assert not has_linear_head(model)
    sequences = [np.arange(first, first + 20, dtype=np.int32) for first in (0, 40)]
    (batch,) = batches_of(windows_of([19, 12], 64), 64)
    (sums,) = WindowLosses(model).sums([batch], sequences)
    for window, found in zip(batch, sums, strict=True):
        tokens = torch.tensor(sequences[window.document])[None, : window.length + 1].long()
        with torch.no_grad():
            expected = model(tokens, labels=tokens).loss.item() * window.length
        assert found == pytest.approx(expected, rel=1e-5)


def test_fitting_chunks_to_short_batches_leaves_the_model_as_it_was() -> None:
    model = toy_model("mamba2").eval()
    before = [layer.mixer.chunk_size for layer in model.backbone.layers]
    (batch,) = batches_of(windows_of([9], 64), 64)
    next(WindowLosses(model).sums([batch], [np.arange(10, dtype=np.int32)]))
    assert [layer.mixer.chunk_size for layer in model.backbone.layers] == before


def test_a_failure_in_a_thread_arrives_and_gives_the_threads_back() -> None:
    (batch,) = batches_of(windows_of([9], 64), 64)
    beyond = [np.full(10, VOCABULARY + 5, np.int32)]
    torch.set_num_threads(2)
    try:
        with pytest.raises(IndexError):
            list(WindowLosses(toy_model("mamba2").eval()).sums([batch] * 5, beyond))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)

"""Cutting a batch into parts, keeping fewer activations and computing in bfloat16 do not change what is learnt."""

import pytest
import torch

from tests.language_model.test_training import TRAINING, fixed_rows
from tests.language_model.toy import ToyBatches, toy_model
from yunmin_assets.language_model import train
from yunmin_assets.language_model.loss import backward, mean_loss
from yunmin_assets.language_model.ranks import ALONE

BFLOAT16_STEP = 2**-8


def batch_of(rows):
    return {"input_ids": rows[:, :-1], "labels": rows[:, 1:]}


def gradient(architecture, batch, **options):
    model = toy_model(architecture).train()
    if options.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = backward(model, batch, TRAINING.model_copy(update=options), ALONE)
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("architecture", ["mamba", "mamba2", "llama"])
@pytest.mark.parametrize("option", [{"gradient_accumulation": 3}, {"gradient_checkpointing": True}])
def test_an_option_that_saves_memory_leaves_loss_and_gradient_as_they_were(architecture, option):
    batch = batch_of(fixed_rows())
    batch["labels"] = batch["labels"].clone()
    batch["labels"][0, 3:] = -100  # parts with different numbers of labels
    loss, expected = gradient(architecture, batch)
    other_loss, found = gradient(architecture, batch, **option)
    assert other_loss.mean.item() == pytest.approx(loss.mean.item(), rel=1e-6)
    assert other_loss.tokens == loss.tokens == 8 * 16
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_more_parts_than_rows_are_as_many_parts_as_rows():
    batch = batch_of(fixed_rows()[:2])
    loss, _ = gradient("mamba2", batch)
    other_loss, _ = gradient("mamba2", batch, gradient_accumulation=5)
    assert other_loss.mean.item() == pytest.approx(loss.mean.item(), rel=1e-6)


def activations_kept(option):
    """Bytes that a training step keeps for the backward pass."""
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        gradient("mamba2", batch_of(fixed_rows()), **option)
    return kept


def test_gradient_checkpointing_keeps_fewer_activations():
    assert activations_kept({"gradient_checkpointing": True}) < activations_kept({}) / 4


@pytest.mark.parametrize("architecture", ["mamba", "mamba2"])
def test_bfloat16_learns_alike_and_is_off_on_a_cpu_unless_asked_for(architecture, tmp_path):
    losses = {}
    for precision in ("auto", "float32", "bfloat16"):
        config = TRAINING.model_copy(update={"steps": 20, "precision": precision})
        model = toy_model(architecture)
        losses[precision] = train(model, ToyBatches(fixed_rows()), config, tmp_path / precision).losses
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert losses["auto"] == losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=10 * BFLOAT16_STEP)


def test_the_mean_loss_counts_every_labelled_token_once():
    model = toy_model("mamba2").eval()
    rows = fixed_rows()
    together = mean_loss(model, [batch_of(rows)], TRAINING, ALONE)
    apart = mean_loss(model, [batch_of(rows[:5]), batch_of(rows[5:])], TRAINING, ALONE)
    assert apart == pytest.approx(together, rel=1e-6)
    masked = batch_of(rows)
    masked["labels"] = masked["labels"].clone()
    masked["labels"][5:] = -100
    only_first = mean_loss(model, [batch_of(rows[:5])], TRAINING, ALONE)
    assert mean_loss(model, [masked], TRAINING, ALONE) == pytest.approx(only_first, rel=1e-6)


@pytest.mark.parametrize("batches", ["none", "without labels"])
def test_a_validation_without_a_labelled_token_is_refused(batches):
    batch = batch_of(fixed_rows())
    batch["labels"] = torch.full_like(batch["labels"], -100)
    with pytest.raises(ValueError, match="no token of the validation batches carries a label"):
        mean_loss(toy_model("mamba2"), [] if batches == "none" else [batch], TRAINING, ALONE)

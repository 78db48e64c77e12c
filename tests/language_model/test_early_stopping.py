"""Training ends when the validation loss stops falling, and what is left is the best that was measured."""

import pytest
import torch
import torch.nn.functional as F

from tests.language_model.test_training import ARCHITECTURE, StoppingBatches, assert_same_run, fixed_rows
from tests.language_model.toy import ToyBatches, toy_model
from yunmin_assets.language_model import EarlyStoppingConfig, TrainingConfig, Validation, train
from yunmin_assets.language_model.ranks import ALONE
from yunmin_assets.language_model.training import _Run, no_report
from yunmin_assets.progress import silent

TRAINING = TrainingConfig(steps=60, warmup_steps=2, checkpoint_every=5, learning_rate=3e-2, seed=5)
STOPPING = EarlyStoppingConfig(validate_every=4, patience=2)


def other_rows() -> torch.Tensor:
    """Rows that have nothing to do with the training rows, but for their tokens: memorising does not help."""
    return torch.randint(0, 10, (6, 17), generator=torch.Generator().manual_seed(1))


def validation(stopping=STOPPING):
    rows = other_rows()
    batches = [{"input_ids": some[:, :-1], "labels": some[:, 1:]} for some in rows.split(4)]
    return Validation(batches, stopping)


def run(folder, batches=None, stopping=STOPPING):
    model = toy_model(ARCHITECTURE)
    batches = batches or ToyBatches(fixed_rows())
    return model, train(model, batches, TRAINING, folder, validation=validation(stopping))


@torch.no_grad()
def loss_by_hand(model):
    rows = other_rows()
    logits = model(rows[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()


def test_it_ends_when_patience_is_lost_with_the_best_parameters(tmp_path):
    model, result = run(tmp_path)
    assert len(result.losses) < TRAINING.steps
    assert result.validation_steps == list(range(4, len(result.losses) + 1, 4))
    lowest = min(result.validation_losses)
    assert result.validation_losses[-3:].index(lowest) == 0 and result.best_step == len(result.losses) - 8
    assert loss_by_hand(model) == pytest.approx(lowest, rel=1e-6)


def test_the_parameters_of_the_best_step_are_those_of_a_run_that_ends_there(tmp_path):
    model, result = run(tmp_path / "long")
    patient = EarlyStoppingConfig(validate_every=4, patience=99)
    snapshots = {}

    class Watching(ToyBatches):
        def __iter__(self):
            for batch in super().__iter__():
                snapshots[self.position - 1] = {n: t.clone() for n, t in watched.state_dict().items()}
                yield batch

    watched = toy_model(ARCHITECTURE)
    train(watched, Watching(fixed_rows()), TRAINING, tmp_path / "watched", validation=validation(patient))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, snapshots[result.best_step][name]), name


@pytest.mark.parametrize("stop_before", [2, 6, 13])
def test_an_interrupted_run_ends_at_the_same_step_with_the_same_bytes(stop_before, tmp_path):
    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped", StoppingBatches(fixed_rows(), stop_before))
    model, result = run(tmp_path / "stopped")
    undisturbed_model, undisturbed = run(tmp_path / "undisturbed")
    assert result.resumed_at == stop_before // 5 * 5
    assert result.validation_losses == undisturbed.validation_losses
    assert_same_run(model, result, undisturbed_model, undisturbed)


def test_a_run_that_ended_early_is_restored_without_training_again(tmp_path):
    model, result = run(tmp_path)
    again, restored = run(tmp_path, StoppingBatches(fixed_rows(), 0))
    assert_same_run(model, result, again, restored)


def test_validation_changes_nothing_about_the_steps(tmp_path):
    _, result = run(tmp_path / "validated")
    model = toy_model(ARCHITECTURE)
    plain = train(model, ToyBatches(fixed_rows()), TRAINING, tmp_path / "plain")
    assert result.losses == plain.losses[: len(result.losses)]


def test_a_budget_of_tokens_is_used_up_and_the_best_parameters_are_kept(tmp_path):
    _, ended_early = run(tmp_path / "early")
    budget = TRAINING.steps * 4 * 16
    assert ended_early.tokens < budget
    model = toy_model(ARCHITECTURE)
    batches, lines = ToyBatches(fixed_rows()), []
    result = train(
        model, batches, TRAINING, tmp_path / "all", tokens=budget, validation=validation(), log=lines.append
    )
    assert result.tokens == budget and result.best_step == ended_early.best_step
    assert loss_by_hand(model) == pytest.approx(min(result.validation_losses), rel=1e-6)
    assert not any("stopped falling" in line for line in lines)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="without a GPU all memory is the CPU's")
def test_the_best_parameters_wait_in_the_memory_of_the_cpu(tmp_path):
    model = toy_model(ARCHITECTURE).cuda()
    training = _Run(model, ToyBatches(fixed_rows()), TRAINING, tmp_path, "", None, validation(), ALONE)
    training.go_on(silent, no_report)
    assert {tensor.device.type for tensor in training.best.values()} == {"cpu"}


def test_another_patience_is_another_run(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="made by another run"):
        run(tmp_path, stopping=EarlyStoppingConfig(validate_every=4, patience=3))

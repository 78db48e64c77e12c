"""Training learns, resumes bit-identically after any interruption, and refuses to fail silently."""

import peft
import pytest
import torch
import torch.nn.functional as F

from tests.language_model.toy import ToyBatches, toy_model
from yunmin_assets.language_model import TrainingConfig, train
from yunmin_assets.language_model.checkpoint import read_state
from yunmin_assets.language_model.training import learning_rate

ARCHITECTURE = "mamba2"
TRAINING = TrainingConfig(steps=9, warmup_steps=2, checkpoint_every=3, learning_rate=1e-2, seed=5)


def fixed_rows() -> torch.Tensor:
    """Rows of 17 tokens out of 10, so that there is something to learn."""
    return torch.randint(0, 10, (8, 17), generator=torch.Generator().manual_seed(0))


class StoppingBatches(ToyBatches):
    """Raises instead of yielding the batch of a step."""

    def __init__(self, rows, stop_before):
        super().__init__(rows)
        self.stop_before = stop_before

    def __iter__(self):
        for batch in super().__iter__():
            if self.position > self.stop_before:
                raise InterruptedError("the machine goes down")
            yield batch


def undisturbed(tmp_path):
    model = toy_model(ARCHITECTURE)
    return model, train(model, ToyBatches(fixed_rows()), TRAINING, tmp_path / "undisturbed")


def assert_same_run(model, result, other_model, other_result):
    assert result.losses == other_result.losses
    assert result.gradient_norms == other_result.gradient_norms
    assert result.tokens == other_result.tokens
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other_model.state_dict()[name]), name


def test_the_loss_falls_on_data_that_can_be_learnt(tmp_path):
    config = TRAINING.model_copy(update={"steps": 40})
    result = train(toy_model("mamba2"), ToyBatches(fixed_rows()), config, tmp_path)
    assert len(result.losses) == 40
    assert result.losses[-1] < result.losses[0] - 1
    assert result.tokens == 40 * 4 * 16
    assert result.tokens_per_second > 0


def test_labels_are_taken_as_already_shifted(tmp_path):
    model = toy_model("mamba2").train()
    batch = next(iter(ToyBatches(fixed_rows())))
    tokens = torch.cat([batch["input_ids"], batch["labels"][:, -1:]], dim=1)
    expected = model(tokens, labels=tokens).loss.item()  # transformers shifts by itself
    result = train(model, ToyBatches(fixed_rows()), TRAINING.model_copy(update={"steps": 1}), tmp_path)
    assert result.losses[0] == pytest.approx(expected, rel=1e-6)


def test_the_first_update_is_that_of_adamw(tmp_path):
    config = TrainingConfig(steps=1, warmup_steps=0, learning_rate=1e-2, weight_decay=0.1, gradient_clip=1e9)
    model, reference = toy_model("mamba2"), toy_model("mamba2").train()
    batch = next(iter(ToyBatches(fixed_rows())))
    logits = reference(batch["input_ids"]).logits
    F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()).backward()
    before = reference.lm_head.weight.detach().clone()
    gradient = reference.lm_head.weight.grad
    # With bias correction Adam's first step is the sign of the gradient, softened by epsilon (1e-8).
    expected = before * (1 - 1e-2 * 0.1) - 1e-2 * gradient / (gradient.abs() + 1e-8)
    train(model, ToyBatches(fixed_rows()), config, tmp_path)
    torch.testing.assert_close(model.lm_head.weight.detach(), expected, rtol=1e-5, atol=1e-7)


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(9, config) == pytest.approx(1.0)
    assert learning_rate(10, config) == pytest.approx(1.0)
    assert learning_rate(60, config) == pytest.approx(0.55)
    assert learning_rate(110, config) == pytest.approx(0.1)
    assert learning_rate(150, config) == pytest.approx(0.1), "a budget of tokens may take more steps"


@pytest.mark.parametrize("stop_before", [1, 3, 8])
def test_a_run_stopped_by_an_exception_resumes_bit_identically(stop_before, tmp_path):
    with pytest.raises(InterruptedError):
        batches = StoppingBatches(fixed_rows(), stop_before)
        train(toy_model(ARCHITECTURE), batches, TRAINING, tmp_path / "stopped")
    model = toy_model(ARCHITECTURE)
    result = train(model, ToyBatches(fixed_rows()), TRAINING, tmp_path / "stopped")
    assert result.resumed_at == stop_before // 3 * 3
    assert_same_run(model, result, *undisturbed(tmp_path))


def test_a_resumed_run_takes_the_threads_of_the_first_and_gives_them_back(tmp_path):
    seen = []

    class Watching(ToyBatches):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append(torch.get_num_threads())
                yield batch

    torch.set_num_threads(2)  # more than the cores of a small machine is only slower
    with pytest.raises(InterruptedError):
        train(toy_model(ARCHITECTURE), StoppingBatches(fixed_rows(), 5), TRAINING, tmp_path)
    torch.set_num_threads(1)
    assert read_state(tmp_path)["arithmetic"] == {"ranks": 1, "threads": 2}
    train(toy_model(ARCHITECTURE), Watching(fixed_rows()), TRAINING, tmp_path)
    assert seen == [2] * 6 and torch.get_num_threads() == 1


def test_a_run_that_fails_leaves_a_model_that_is_ready_for_inference(tmp_path):
    model = toy_model(ARCHITECTURE)
    config = TRAINING.model_copy(update={"gradient_checkpointing": True})
    with pytest.raises(InterruptedError):
        train(model, StoppingBatches(fixed_rows(), 2), config, tmp_path)
    assert not model.training and not model.is_gradient_checkpointing


def test_a_budget_of_tokens_ends_the_run_after_the_step_that_reaches_it(tmp_path):
    class ShortBatches(ToyBatches):
        """Every second batch has one row, as the last of an epoch may have."""

        def __iter__(self):
            for batch in super().__iter__():
                yield {name: rows[: 1 if self.position % 2 else 4] for name, rows in batch.items()}

    class Stopping(ShortBatches, StoppingBatches):
        pass

    budget = 6 * 4 * 16 + 1
    config = TRAINING.model_copy(update={"steps": 7})
    with pytest.raises(InterruptedError):
        train(toy_model(ARCHITECTURE), Stopping(fixed_rows(), 9), config, tmp_path / "a", tokens=budget)
    model = toy_model(ARCHITECTURE)
    result = train(model, ShortBatches(fixed_rows()), config, tmp_path / "a", tokens=budget)
    assert result.resumed_at == 9 and len(result.losses) == 10
    assert budget <= result.tokens == 5 * (1 + 4) * 16 < budget + 4 * 16
    again = toy_model(ARCHITECTURE)
    undisturbed_result = train(again, ShortBatches(fixed_rows()), config, tmp_path / "b", tokens=budget)
    assert_same_run(model, result, again, undisturbed_result)
    with pytest.raises(ValueError, match="made by another run"):
        train(model, ShortBatches(fixed_rows()), config, tmp_path / "a", tokens=budget + 1)


def test_a_checkpoint_that_was_half_written_is_not_read(tmp_path):
    with pytest.raises(InterruptedError):
        train(toy_model(ARCHITECTURE), StoppingBatches(fixed_rows(), 5), TRAINING, tmp_path / "stopped")
    (tmp_path / "stopped" / "part").mkdir(exist_ok=True)
    (tmp_path / "stopped" / "part" / "latest.safetensors").write_bytes(b"cut off")
    model = toy_model(ARCHITECTURE)
    result = train(model, ToyBatches(fixed_rows()), TRAINING, tmp_path / "stopped")
    assert_same_run(model, result, *undisturbed(tmp_path))


def test_a_finished_run_is_restored_without_training_again(tmp_path):
    model, result = undisturbed(tmp_path)
    again = toy_model(ARCHITECTURE)
    restored = train(again, StoppingBatches(fixed_rows(), 0), TRAINING, tmp_path / "undisturbed")
    assert_same_run(model, result, again, restored)


@pytest.mark.parametrize("difference", ["config", "identity", "model"])
def test_the_checkpoint_of_another_run_is_refused(difference, tmp_path):
    undisturbed(tmp_path)
    config = TRAINING.model_copy(update={"seed": 6}) if difference == "config" else TRAINING
    identity = "another base" if difference == "identity" else ""
    model = toy_model("mamba" if difference == "model" else ARCHITECTURE)
    with pytest.raises(ValueError, match=r"checkpoint in .* remove the folder"):
        train(model, ToyBatches(fixed_rows()), config, tmp_path / "undisturbed", identity=identity)


def test_a_loss_that_is_not_finite_names_step_and_batch(tmp_path):
    model = toy_model("mamba2")
    with torch.no_grad():
        model.backbone.embeddings.weight[9] = float("nan")
    rows = fixed_rows().clamp(max=8)
    rows[-1] = 9
    expected_step = next(
        step for step, batch in enumerate(ToyBatches(rows)) if (batch["input_ids"] == 9).any()
    )
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().nan_to_num())
    with pytest.raises(
        FloatingPointError, match=f"nan in step {expected_step} .*'position': {expected_step + 1}"
    ):
        train(model, ToyBatches(rows), TRAINING.model_copy(update={"steps": 100}), tmp_path)


def test_batches_that_end_early_are_an_error(tmp_path):
    class OneBatch(ToyBatches):
        def __iter__(self):
            yield next(super().__iter__())

    with pytest.raises(ValueError, match="ended after 1 of 9 steps"):
        train(toy_model("mamba2"), OneBatch(fixed_rows()), TRAINING, tmp_path)


def test_an_adapter_matrix_that_does_not_train_is_named(tmp_path):
    lora = peft.LoraConfig(r=2, target_modules=["in_proj", "dt_proj"])
    model = peft.get_peft_model(toy_model("mamba"), lora)
    with pytest.raises(RuntimeError, match=r"did not move.*dt_proj\.lora_A"):
        train(model, ToyBatches(fixed_rows()), TRAINING, tmp_path)


@pytest.mark.parametrize("targets", [["in_proj"], ["in_proj", "dt_proj"]])
def test_an_adapter_that_does_not_train_is_named_even_after_a_single_step(targets, tmp_path):
    model = peft.get_peft_model(toy_model("mamba"), peft.LoraConfig(r=2, target_modules=targets))
    config = TRAINING.model_copy(update={"steps": 1})
    if targets == ["in_proj"]:
        train(model, ToyBatches(fixed_rows()), config, tmp_path)
        return
    with pytest.raises(RuntimeError, match=r"did not move in 1 optimizer steps.*dt_proj\.lora_B"):
        train(model, ToyBatches(fixed_rows()), config, tmp_path)


def test_only_the_adapter_of_a_peft_model_is_trained(tmp_path):
    model = peft.get_peft_model(toy_model("mamba2"), peft.LoraConfig(r=2, target_modules=["in_proj"]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, ToyBatches(fixed_rows()), TRAINING, tmp_path)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_losses_are_reported_at_a_steady_pace_and_at_the_end(tmp_path, monkeypatch):
    clock = {"now": 0.0}

    class SlowBatches(ToyBatches):
        def __iter__(self):
            for batch in super().__iter__():
                clock["now"] += 20.0
                yield batch

    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    seen, lines = [], []
    train(
        toy_model(ARCHITECTURE),
        SlowBatches(fixed_rows()),
        TRAINING,
        tmp_path,
        log=lines.append,
        report=lambda result: seen.append(len(result.losses)),
    )
    assert seen == [2, 4, 6, 8, 9]
    assert "8 of 9 steps" in lines[-3] and "20 s left" in lines[-3] and "tokens/s" in lines[-3]

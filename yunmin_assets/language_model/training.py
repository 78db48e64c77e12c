"""Train a causal language model on packed batches, and go on exactly where a killed run stopped.

- AdamW, linear warm-up, cosine decay to a tenth of the peak, gradient clipping; the loss is taken in float32.
- Every parameter with `requires_grad` is trained: all of a fresh model, the adapters of a peft model.
- A checkpoint every `checkpoint_every` steps holds trainable parameters, moments, random state, loss history
  and the loader's own position. On CPU the resumed run is bit-identical to an undisturbed one.
- A loss or gradient that is not finite, and an adapter matrix that does not train, stop the run with their
  name.

The price: one checkpoint costs a write of three times the trainable parameters.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from yunmin_assets.language_model.checkpoint import read_state, restore_checkpoint, save_checkpoint
from yunmin_assets.language_model.config import TrainingConfig
from yunmin_assets.progress import Log, Progress, silent

ADAM_BETAS = (0.9, 0.95)  # the usual choice for language models since GPT-3
FINAL_LEARNING_RATE_SHARE = 0.1
STEPS_UNTIL_ADAPTERS_MOVE = 2  # LoRA's B starts at zero, so A receives its first gradient in the second step

Batch = Mapping[str, object]
"""`input_ids` and `labels`, int64 [batch, length]; labels are the inputs shifted by one."""


class Batches(Protocol):
    """A stream of batches that knows its own position.

    `state_dict()` is JSON-serialisable and describes the stream after the last batch that was yielded;
    iterating after `load_state_dict()` begins with the batch that follows.
    """

    def __iter__(self) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class TrainingResult:
    """What a finished run did, interrupted stretches included."""

    losses: list[float] = field(default_factory=list)
    """Mean token loss in nats, one per optimizer step, before that step's update."""
    gradient_norms: list[float] = field(default_factory=list)
    """Norm of the gradient before clipping, one per step."""
    tokens: int = 0
    """Tokens that went through the model."""
    seconds: float = 0.0
    """Wall time spent training."""
    resumed_at: int = 0
    """Step at which this process took over; 0 when it ran from the start."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate of a step counted from 0: linear warm-up, then a cosine down to a tenth of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (FINAL_LEARNING_RATE_SHARE + (1 - FINAL_LEARNING_RATE_SHARE) * cosine)


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    checkpoint_dir: Path,
    *,
    identity: str = "",
    log: Log = silent,
) -> TrainingResult:
    """Train `model` in place for `config.steps` optimizer steps.

    Args:
        model: A causal LM whose output has `logits`; its parameters with `requires_grad` are trained.
        batches: The stream of packed batches; must not end before the last step.
        checkpoint_dir: Folder of the checkpoint. If it holds one, training goes on from there.
        identity: What else must be equal for a checkpoint to be continued, for instance a hash of the base.
        log: Receives progress lines.

    Raises:
        FloatingPointError: Loss or gradient is not finite; names the step and the batch.
        RuntimeError: An adapter matrix did not move in the first two steps; names it.
        ValueError: The batches ended early, or the checkpoint belongs to another run.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        _decay_groups(parameters, config), lr=config.learning_rate, betas=ADAM_BETAS
    )
    run_identity = {"config": config.model_dump(mode="json"), "identity": identity}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        result = _resume(checkpoint_dir, run_identity, parameters, optimizer, batches)
        model.train()
        _train_steps(model, batches, config, checkpoint_dir, run_identity, parameters, optimizer, result, log)
        model.eval()
    return result


def _train_steps(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    checkpoint_dir: Path,
    run_identity: dict[str, Any],
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    result: TrainingResult,
    log: Log,
) -> None:
    first = result.resumed_at
    adapters_before = _adapter_values(parameters) if first < STEPS_UNTIL_ADAPTERS_MOVE else {}
    stream = iter(batches)
    with Progress(log, "steps", total=config.steps - first) as progress:
        for step in range(first, config.steps):
            started = time.monotonic()
            batch = next(stream, None)
            if batch is None:
                raise ValueError(
                    f"the batches ended after {step} of {config.steps} steps: repeat the data or lower steps"
                )
            loss, norm, tokens = _step(model, batch, config, step, parameters, optimizer, batches)
            result.losses.append(loss)
            result.gradient_norms.append(norm)
            result.tokens += tokens
            result.seconds += time.monotonic() - started
            done = step + 1
            if done == STEPS_UNTIL_ADAPTERS_MOVE:
                _require_movement(adapters_before, parameters)
            if done % config.checkpoint_every == 0 or done == config.steps:
                state = {"run": run_identity, "result": asdict(result), "loader": batches.state_dict()}
                save_checkpoint(checkpoint_dir, parameters, optimizer, state)
            progress.advance(note=f"loss {loss:.3f}")


def _step(
    model: nn.Module,
    batch: Batch,
    config: TrainingConfig,
    step: int,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    batches: Batches,
) -> tuple[float, float, int]:
    """One optimizer step. Returns the loss in nats, the gradient norm and the number of tokens."""
    device = next(iter(parameters.values())).device
    input_ids = torch.as_tensor(batch["input_ids"]).to(device)
    labels = torch.as_tensor(batch["labels"]).to(device)
    logits = model(input_ids=input_ids, use_cache=False).logits
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
    _require_finite(loss, "loss", step, batches)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters.values(), config.gradient_clip)
    _require_finite(norm, "gradient norm", step, batches)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.step()
    return loss.item(), norm.item(), input_ids.numel()


def _decay_groups(parameters: Mapping[str, nn.Parameter], config: TrainingConfig) -> list[dict[str, Any]]:
    """Weight decay acts on matrices only; Mamba's A_log is a rate, not a matrix, although it has two axes."""
    decayed = [p for name, p in parameters.items() if p.ndim >= 2 and not name.endswith("A_log")]
    others = [p for name, p in parameters.items() if p.ndim < 2 or name.endswith("A_log")]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _resume(
    checkpoint_dir: Path,
    run_identity: dict[str, Any],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    batches: Batches,
) -> TrainingResult:
    """Restore the folder's checkpoint when there is one; return the history so far."""
    state = read_state(checkpoint_dir)
    if state is None:
        return TrainingResult()
    if state["run"] != run_identity:
        raise ValueError(
            f"the checkpoint in {checkpoint_dir} was made by another run ({state['run']}, "
            f"now {run_identity}): remove the folder to start afresh"
        )
    restore_checkpoint(checkpoint_dir, parameters, optimizer)
    batches.load_state_dict(state["loader"])
    result = TrainingResult(**state["result"])
    result.resumed_at = len(result.losses)
    return result


def _adapter_values(parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items() if "lora_" in name}


def _require_movement(before: Mapping[str, torch.Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    still = [name for name, value in before.items() if torch.equal(value, parameters[name])]
    if still:
        raise RuntimeError(
            f"{len(still)} adapter matrices did not move in {STEPS_UNTIL_ADAPTERS_MOVE} optimizer steps, "
            f"the first is {still[0]}: the model does not call that module, so remove it from target_modules"
        )


def _require_finite(value: torch.Tensor, what: str, step: int, batches: Batches) -> None:
    if not torch.isfinite(value):
        raise FloatingPointError(
            f"the {what} is {value.item()} in step {step} (counted from 0), on the batch before loader "
            f"position {batches.state_dict()}: lower the learning rate, or look at that batch"
        )

"""Train a causal language model on packed batches, and go on exactly where a killed run stopped.

- AdamW, linear warm-up, cosine decay to a tenth of the peak, gradient clipping; the loss is taken in float32.
- Every parameter with `requires_grad` is trained: all of a fresh model, the adapters of a peft model.
- A checkpoint every `checkpoint_every` steps holds trainable parameters, moments, random state, loss history,
  the best parameters so far and the loader's own position; the learning rate is a function of the step. On the
  same kind of CPU the resumed run is bit-identical to an undisturbed one: it takes as many torch threads.
- With validation batches, training ends when the validation loss has stopped falling, and the parameters with
  the lowest one are what is left in the model. A run with a budget of tokens uses it up all the same.
- Any number of ranks train on the same global batches; the first one writes checkpoints, all go on from them.
- A loss or gradient that is not finite, and an adapter matrix that does not train, stop the run with their
  name.

The price: one checkpoint costs a write of three times the trainable parameters, four times with validation.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from yunmin_assets.language_model.checkpoint import read_state, restore_checkpoint, save_checkpoint
from yunmin_assets.language_model.config import EarlyStoppingConfig, TrainingConfig
from yunmin_assets.language_model.loss import Batch, backward, mean_loss
from yunmin_assets.language_model.ranks import ALONE, Ranks
from yunmin_assets.progress import Log, Progress, silent

ADAM_BETAS = (0.9, 0.95)  # the usual choice for language models since GPT-3
FINAL_LEARNING_RATE_SHARE = 0.1
STEPS_UNTIL_ADAPTERS_MOVE = 2  # LoRA's B starts at zero, so A receives its first gradient in the second step
SECONDS_BETWEEN_REPORTS = 30.0
SHARE_BETWEEN_REPORTS = 0.02  # of the time so far: a week of training is not reported twenty thousand times


class Batches(Protocol):
    """A stream of batches that knows its own position.

    `state_dict()` is JSON-serialisable and describes the stream after the last batch that was yielded;
    iterating after `load_state_dict()` begins with the batch that follows.
    """

    def __iter__(self) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Validation:
    """What decides when training ends: held-out batches (of several ranks: this one's rows of them)."""

    batches: Sequence[Batch]
    stopping: EarlyStoppingConfig


@dataclass
class TrainingResult:
    """What a run did so far, interrupted stretches included."""

    losses: list[float] = field(default_factory=list)
    """Mean token loss in nats, one per optimizer step, before that step's update."""
    gradient_norms: list[float] = field(default_factory=list)
    """Norm of the gradient before clipping, one per step."""
    validation_steps: list[int] = field(default_factory=list)
    """Steps done when the validation loss was measured."""
    validation_losses: list[float] = field(default_factory=list)
    """Mean token loss in nats on the validation batches, one per validation."""
    tokens: int = 0
    """Tokens that went through the model in training."""
    seconds: float = 0.0
    """Wall time spent in training steps."""
    resumed_at: int = 0
    """Step at which this process took over; 0 when it ran from the start."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def best_step(self) -> int | None:
        """Steps after which the validation loss was lowest, the first of equals; None without validation."""
        if not self.validation_losses:
            return None
        return self.validation_steps[self.validation_losses.index(min(self.validation_losses))]

    @property
    def validations_since_best(self) -> int:
        """Validations in a row that brought no new lowest loss."""
        if not self.validation_losses:
            return 0
        return len(self.validation_losses) - 1 - self.validation_losses.index(min(self.validation_losses))


Report = Callable[[TrainingResult], None]
"""Is shown the result so far: every 30 seconds, later less often, and at the end."""


def no_report(_: TrainingResult) -> None:
    """For callers who do not watch."""


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate of a step counted from 0: linear warm-up, then a cosine down to a tenth of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = min((step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1), 1.0)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (FINAL_LEARNING_RATE_SHARE + (1 - FINAL_LEARNING_RATE_SHARE) * cosine)


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    checkpoint_dir: Path,
    *,
    identity: str = "",
    tokens: int | None = None,
    validation: Validation | None = None,
    ranks: Ranks = ALONE,
    log: Log = silent,
    report: Report = no_report,
) -> TrainingResult:
    """Train `model` in place for `config.steps` optimizer steps, or until its validation loss stops falling.

    Args:
        model: A causal LM whose output has `logits`; its parameters with `requires_grad` are trained.
        batches: The stream of packed batches (of several ranks: this one's rows); must not end before the
            last step.
        checkpoint_dir: Folder of the checkpoint. If it holds one, training goes on from there.
        identity: What else must be equal for a checkpoint to be continued, for instance a hash of the base.
        tokens: End after the step that reaches so many, and neither after `config.steps`, which then only
            stretch the learning rate's schedule, nor early: the validation only chooses the best parameters.
        validation: When to end early; without it, every step is done and the last parameters are kept.
        ranks: The processes that train together.
        log: Receives progress lines.
        report: Receives the losses while they come in, on the first rank only.

    Raises:
        FloatingPointError: Loss or gradient is not finite; names the step and the batch.
        RuntimeError: An adapter matrix did not move in the first two steps; names it.
        ValueError: The batches ended early, no validation token is labelled, or the checkpoint belongs to
            another run.
        OSError: A checkpoint could not be written; the one before is as it was.
    """
    run = _Run(model, batches, config, checkpoint_dir, identity, tokens, validation, ranks)
    with _own_randomness(config.seed, run.device), _training_mode(model, config), _own_threads():
        run.resume()
        run.go_on(log if ranks.is_first else silent, report if ranks.is_first else no_report)
    run.keep_best()
    return run.result


class _Run:
    """One run of training: what it works on and how far it has come."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        config: TrainingConfig,
        checkpoint_dir: Path,
        identity: str,
        tokens: int | None,
        validation: Validation | None,
        ranks: Ranks,
    ):
        self.model, self.batches, self.config, self.tokens = model, batches, config, tokens
        self.checkpoint_dir, self.validation, self.ranks = checkpoint_dir, validation, ranks
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.optimizer = torch.optim.AdamW(
            _decay_groups(self.parameters, config), lr=config.learning_rate, betas=ADAM_BETAS
        )
        self.identity: dict[str, Any] = {"config": config.model_dump(mode="json"), "identity": identity}
        if tokens is not None:
            self.identity["tokens"] = tokens
        if validation:
            self.identity["stopping"] = validation.stopping.model_dump(mode="json")
        self.best: dict[str, torch.Tensor] = {}
        self.result = TrainingResult()

    def resume(self) -> None:
        """Go on from the folder's checkpoint when there is one."""
        state = read_state(self.checkpoint_dir)
        if state is None:
            return
        if state["run"] != self.identity:
            raise ValueError(
                f"the checkpoint in {self.checkpoint_dir} was made by another run ({state['run']}, "
                f"now {self.identity}): remove the folder to start afresh"
            )
        arithmetic = state.get("arithmetic", {})  # absent from checkpoints of earlier versions
        if arithmetic.get("ranks") == self.ranks.count:  # else rounding differs anyway
            torch.set_num_threads(arithmetic["threads"])
        self.best = restore_checkpoint(self.checkpoint_dir, self.parameters, self.optimizer)
        self.batches.load_state_dict(state["loader"])
        self.result = TrainingResult(**state["result"])
        self.result.resumed_at = len(self.result.losses)

    def go_on(self, log: Log, report: Report) -> None:
        """Do the steps that are left."""
        first, steps = len(self.result.losses), self.config.steps
        adapters_before = _adapter_values(self.parameters) if first < STEPS_UNTIL_ADAPTERS_MOVE else {}
        stream, pace = iter(self.batches), _Pace()
        with Progress(log, "steps", total=steps - first) as progress:
            while not self._has_ended():
                self._step(stream)
                done = len(self.result.losses)
                if done == STEPS_UNTIL_ADAPTERS_MOVE:
                    _require_movement(adapters_before, self.parameters, done)
                elif done == 1 and self._is_complete():
                    movable = {name: value for name, value in adapters_before.items() if "lora_B" in name}
                    _require_movement(movable, self.parameters, done)
                if self._is_validated_after(done):
                    self._validate()
                if done % self.config.checkpoint_every == 0 or self._has_ended():
                    self._save()
                if pace.is_due():
                    report(self.result)
                progress.advance(note=_note(self.result))
        if not self._is_complete():
            log(
                f"ended after {len(self.result.losses)} of {steps} steps: the validation loss stopped falling"
            )
        report(self.result)

    def keep_best(self) -> None:
        """Put the parameters of the lowest validation loss into the model."""
        with torch.no_grad():
            for name, tensor in self.best.items():
                self.parameters[name].copy_(tensor)

    def _has_ended(self) -> bool:
        return self._is_complete() or (self.tokens is None and self._has_lost_patience())

    def _is_complete(self) -> bool:
        """Whether everything was done that was asked for."""
        if self.tokens is not None:
            return self.result.tokens >= self.tokens
        return len(self.result.losses) >= self.config.steps

    def _has_lost_patience(self) -> bool:
        stopping = self.validation.stopping if self.validation else None
        return stopping is not None and self.result.validations_since_best >= stopping.patience

    def _step(self, stream: Iterator[Batch]) -> None:
        """One optimizer step."""
        result, step = self.result, len(self.result.losses)
        started = time.monotonic()
        batch = next(stream, None)
        if batch is None:
            raise ValueError(
                f"the batches ended after {step} of {self.config.steps} steps: repeat the data or lower steps"
            )
        self.optimizer.zero_grad()
        loss = backward(self.model, batch, self.config, self.ranks)
        self._require_finite(loss.mean, "loss", step)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.gradient_clip)
        self._require_finite(norm, "gradient norm", step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config)
        self.optimizer.step()
        result.losses.append(loss.mean.item())
        result.gradient_norms.append(norm.item())
        result.tokens += loss.tokens
        result.seconds += time.monotonic() - started

    def _is_validated_after(self, done: int) -> bool:
        every = self.validation.stopping.validate_every if self.validation else 0
        return every > 0 and (done % every == 0 or self._is_complete())

    def _validate(self) -> None:
        assert self.validation is not None
        self.model.eval()
        loss = mean_loss(self.model, self.validation.batches, self.config, self.ranks)
        self.model.train()
        done = len(self.result.losses)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the validation loss after {done} steps is {loss}: lower the learning rate"
            )
        self.result.validation_steps.append(done)
        self.result.validation_losses.append(loss)
        if self.result.best_step == done:
            # On the CPU, for a GPU has better use of the memory.
            self.best = {name: p.detach().to("cpu", copy=True) for name, p in self.parameters.items()}

    def _save(self) -> None:
        if self.ranks.is_first:
            state = {
                "run": self.identity,
                "result": asdict(self.result),
                "loader": self.batches.state_dict(),
                "arithmetic": {"ranks": self.ranks.count, "threads": torch.get_num_threads()},
            }
            save_checkpoint(self.checkpoint_dir, self.parameters, self.optimizer, state, best=self.best)

    def _require_finite(self, value: torch.Tensor, what: str, step: int) -> None:
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"the {what} is {value.item()} in step {step} (counted from 0), on the batch before loader "
                f"position {self.batches.state_dict()}: lower the learning rate, or look at that batch"
            )


class _Pace:
    """When to report: every 30 seconds, and less often in a long run."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()

    def is_due(self) -> bool:
        now = time.monotonic()
        pause = max(SECONDS_BETWEEN_REPORTS, SHARE_BETWEEN_REPORTS * (now - self._started))
        if now - self._last < pause:
            return False
        self._last = now
        return True


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from a seed, without touching those of the caller."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _training_mode(model: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Training mode, with gradient checkpointing when it is asked for; afterwards ready for inference."""
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    model.train()
    try:
        yield
    finally:
        model.eval()
        if config.gradient_checkpointing:
            model.gradient_checkpointing_disable()  # type: ignore[operator]


@contextmanager
def _own_threads() -> Iterator[None]:
    """A number of torch threads that may be changed inside: sums are rounded differently with another one."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _decay_groups(parameters: Mapping[str, nn.Parameter], config: TrainingConfig) -> list[dict[str, Any]]:
    """Weight decay acts on matrices only; Mamba's A_log is a rate, not a matrix, although it has two axes."""
    decayed = [p for name, p in parameters.items() if p.ndim >= 2 and not name.endswith("A_log")]
    others = [p for name, p in parameters.items() if p.ndim < 2 or name.endswith("A_log")]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _note(result: TrainingResult) -> str:
    validation = f", validation {result.validation_losses[-1]:.3f}" if result.validation_losses else ""
    return f"loss {result.losses[-1]:.3f}{validation}, {result.tokens_per_second:,.0f} tokens/s"


def _adapter_values(parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items() if "lora_" in name}


def _require_movement(
    before: Mapping[str, torch.Tensor], parameters: Mapping[str, nn.Parameter], steps: int
) -> None:
    still = [name for name, value in before.items() if torch.equal(value, parameters[name])]
    if still:
        raise RuntimeError(
            f"{len(still)} adapter matrices did not move in {steps} optimizer steps, "
            f"the first is {still[0]}: the model does not call that module, so remove it from target_modules"
        )

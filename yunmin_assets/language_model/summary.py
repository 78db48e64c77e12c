"""What a person wants to see of training runs: the loss, and how fast it went."""

import math
from collections.abc import Mapping

from yunmin_assets.language_model.training import TrainingResult
from yunmin_assets.plots import curves

LAST_STEPS = 10


def describe_training(results: Mapping[str, TrainingResult]) -> tuple[dict[str, int | float], bool, str]:
    """Figures over all runs, whether every loss is finite, and the loss curves as Markdown."""
    tokens = sum(result.tokens for result in results.values())
    seconds = sum(result.seconds for result in results.values())
    figures: dict[str, int | float] = {
        "steps": sum(len(result.losses) for result in results.values()),
        "tokens": tokens,
        "tokens_per_second": tokens / max(seconds, 1e-9),
    }
    for name, result in results.items():
        last = result.losses[-LAST_STEPS:]
        figures[f"first_loss {name}".strip()] = result.losses[0]
        figures[f"last_loss {name}".strip()] = sum(last) / len(last)
        if result.best_step is not None:
            figures[f"best_step {name}".strip()] = result.best_step
            figures[f"best_validation_loss {name}".strip()] = min(result.validation_losses)
    losses = [loss for result in results.values() for loss in (*result.losses, *result.validation_losses)]
    return figures, all(map(math.isfinite, losses)), _loss_curves(results)


def describe_progress(result: TrainingResult, steps: int) -> tuple[dict[str, int | float], str]:
    """Figures of a run that goes on, and its loss curve so far as Markdown."""
    figures, _, plot = describe_training({"": result})
    seconds_per_step = result.seconds / len(result.losses)
    steps = max(steps, len(result.losses))  # a budget of tokens may take some more than was expected
    figures["share_done"] = len(result.losses) / steps
    figures["seconds_left"] = seconds_per_step * (steps - len(result.losses))
    return figures, plot


def _loss_curves(results: Mapping[str, TrainingResult]) -> str:
    series: dict[str, tuple[list[int], list[float]]] = {}
    for name, result in results.items():
        series[name or "training"] = (list(range(1, len(result.losses) + 1)), result.losses)
        if result.validation_losses:
            series[f"{name} validation".strip()] = (result.validation_steps, result.validation_losses)
    return curves(series, title="Training loss", xlabel="optimizer step", ylabel="nats per token")

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
    is_finite = all(math.isfinite(loss) for result in results.values() for loss in result.losses)
    series = {
        name: (list(range(1, len(result.losses) + 1)), result.losses) for name, result in results.items()
    }
    plot = curves(series, title="Training loss", xlabel="optimizer step", ylabel="nats per token")
    return figures, is_finite, plot

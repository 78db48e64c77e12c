"""The control of a weight search: an adapter that trains on the search rows themselves.

It sees what the search saw and trains on as many tokens as went through the model there. If it is better than the
searched weights, the rows were worth more as training data.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yunmin_assets.dem.adapter import train_adapter
from yunmin_assets.dem.config import LoraConfig
from yunmin_assets.dem.difference_making import diff_domain_model
from yunmin_assets.dem.search_rows import DomainRows, Rows
from yunmin_assets.language_model.checkpoint import read_state
from yunmin_assets.language_model.loss import Batch
from yunmin_assets.progress import Log


@dataclass(frozen=True)
class Spent:
    """What something cost."""

    tokens: int
    """That went through a model."""
    cpu_seconds: float

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.tokens + other.tokens, self.cpu_seconds + other.cpu_seconds)


def train_on_rows(
    base_dir: Path, rows: Rows, tokens: int, config: LoraConfig, work_dir: Path, log: Log
) -> tuple[Path, Spent]:
    """Train a model on the rows of all domains mixed, and take its difference to the base.

    Args:
        base_dir: Folder of the base model.
        rows: Each is seen once before one is seen again.
        tokens: Training ends after the step that reaches so many.
        config: As the domains' own models are trained; it fits the schedule of the learning rate to `tokens`.
        work_dir: Keeps checkpoints and results; a killed training goes on from there.
        log: Progress.

    Returns:
        The difference folder, and what the training cost, in all processes that worked on it.

    Raises:
        ValueError, FloatingPointError, RuntimeError: See `train_adapter`.
    """
    model, difference, checkpoints = (work_dir / name for name in ("model", "difference", "checkpoints"))
    together = DomainRows(
        torch.cat([of_domain.inputs for of_domain in rows.values()]),
        torch.cat([of_domain.labels for of_domain in rows.values()]),
    )
    fitted = config.over_domains(len(rows), tokens, together.inputs.shape[1])
    if not model.exists():
        stream = EndlessRows(together, fitted.training.batch_size, fitted.training.seed)
        train_adapter(base_dir, stream, fitted, model, checkpoints, tokens=tokens, log=log)
    if not difference.exists():
        diff_domain_model(base_dir, model, difference, log=log)
    state = read_state(checkpoints)
    assert state is not None  # training ends with a checkpoint
    return difference, Spent(state["result"]["tokens"], state["loader"]["cpu_seconds"])


class EndlessRows:
    """Batches without end over a few rows in memory, in another order in every epoch.

    `columnar` streams a whole data set from packed files; the rows of a search are fewer than fit into one page there.
    Its state also holds the CPU time since it was made, so that every checkpoint knows what was spent up to then.
    """

    def __init__(self, rows: DomainRows, batch_size: int, seed: int):
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        self._position, self._spent, self._started = 0, 0.0, time.process_time()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            places = range(self._position, self._position + self._batch_size)
            chosen = self._rows.pick(torch.tensor([self._row(place) for place in places]))
            self._position += self._batch_size
            yield {"input_ids": chosen.inputs, "labels": chosen.labels}

    def state_dict(self) -> dict[str, Any]:
        return {
            "position": self._position,
            "cpu_seconds": self._spent + time.process_time() - self._started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position, self._spent = state["position"], state["cpu_seconds"]
        self._started = time.process_time()

    def _row(self, place: int) -> int:
        epoch, within = divmod(place, len(self._rows))
        return int(np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))[within])

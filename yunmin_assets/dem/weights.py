"""Domain weights wᵢ of Θ_D = Θ + Σ wᵢdᵢ, found on validation data (arXiv 2406.15570, section 3).

Weights are searched after training, so a domain that comes or goes costs one search and no other domain's training.

- Rows that choose are not rows that judge: the search sees some validation rows, and all candidates are compared on
  others (see `search_rows`). The candidate with the lowest loss there wins, so a search that found nothing better than
  the base, uniform weights or a single domain is reported as such. Its loss on those rows is a little flattered by
  that choice among a handful; what the weights are worth is measured on test documents.
- Controls show what else the same money buys: one model trained on all domains together, and one trained on the
  search rows for as many tokens as the search took. They are measured likewise and never chosen.
- Resumable: every step, trial, measurement and training is kept in a journal; a killed search goes on and finds
  the same numbers, bit for bit on a CPU.

Price: the search's tokens, as many again for training the second control, and one pass over the comparison rows per
candidate: domains + 3, and one more for each control. Memory: see `weighted_model`, the activations of a batch, and for
the control those of training.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from yunmin_assets.dem.config import LoraConfig, WeightsConfig
from yunmin_assets.dem.difference import DESCRIPTION_FILE, Weight, open_differences
from yunmin_assets.dem.gradient_search import search_gradient
from yunmin_assets.dem.search_candidates import (
    BASE,
    FIXED,
    JOINT,
    ON_VALIDATION,
    SEARCHED,
    UNIFORM,
    Candidate,
    candidate_table,
    single,
)
from yunmin_assets.dem.search_controls import Spent, train_on_rows
from yunmin_assets.dem.search_journal import Journal, open_journal
from yunmin_assets.dem.search_losses import loss_per_token, losses_of_rows, not_finite, require_finite
from yunmin_assets.dem.search_result import SEARCH, Found, SearchStep
from yunmin_assets.dem.search_rows import Rows, count_tokens, split_rows
from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.dem.weighted_model import WeightedModel
from yunmin_assets.files import sha256_of
from yunmin_assets.language_model.architecture import default_device, load_model
from yunmin_assets.language_model.loss import Batch
from yunmin_assets.progress import Log, silent, track

MEASUREMENT = "measurement"
CONTROL_FOLDER = "control"
NOTHING = Spent(0, 0.0)


@dataclass(frozen=True)
class WeightSearch:
    """The weights that were chosen and what they were compared with."""

    weights: dict[str, Weight]
    """Of the chosen candidate: one per domain, or of `per_module` one per tensor of each domain."""
    chosen: str
    """Name of the candidate that `weights` are."""
    searched: dict[str, Weight]
    """What the search found, or was given, chosen or not."""
    best_single: str | None
    """Name of the best candidate that is one domain's model alone; None when no such loss is finite."""
    method: str
    curve: list[SearchStep]
    """Empty when the weights were given."""
    candidates: pa.Table
    """See `candidate_table`."""
    search_rows: dict[str, int]
    """Validation rows per domain that the search saw."""
    comparison_rows: dict[str, int]
    """Others, on which the candidates were measured."""
    search_tokens: int
    """That went through the model during the search, without the comparison of candidates."""
    search_cpu_seconds: float
    all_tokens: int
    """That went through a model at all: search, comparison of candidates, and training of the control."""


def search_weights(
    base_dir: Path,
    diffs: Mapping[str, Path],
    validation: Mapping[str, Iterable[Batch]],
    config: WeightsConfig,
    *,
    training_costs: Mapping[str, Spent] | None = None,
    joint: Path | None = None,
    joint_cost: Spent | None = None,
    control: LoraConfig | None = None,
    work_dir: Path | None = None,
    log: Log = silent,
) -> WeightSearch:
    """Choose the weight of each domain's difference.

    Args:
        base_dir: Folder of the base model.
        diffs: Difference folder of each domain.
        validation: Packed validation batches of the domains the merged model is meant for, usually the same
            names as `diffs`; the first rows of each are taken.
        config: How to search, and on how many rows.
        training_costs: What each domain's model cost; without it, costs that include one are null.
        joint: Difference folder of a model that was trained on all domains together, for comparison.
        joint_cost: What that model cost.
        control: How to train an adapter on the search rows, for comparison; without it, none is trained.
        work_dir: Keeps what is done, so that a killed search goes on there; can be removed afterwards.
        log: Progress.

    Raises:
        ValueError: A domain has too few validation rows, `fixed` does not name exactly the domains of `diffs`, a grid
            does not fit into `trials`, a difference is empty or does not belong to the base, the base stores a tied
            weight twice, or `work_dir` is another search's or damaged.
        FloatingPointError: A loss of the search, or of what it found, is not finite; says whose difference it is.
            Any other candidate may be: it is listed without a loss and never chosen.
    """
    base = WeightFiles(base_dir)
    differences = open_differences(base, diffs)
    for domain, difference in differences.items():
        if not difference.shapes:
            raise ValueError(
                f"the difference of {domain!r} in {difference.folder} is empty, its model equals the base: "
                "leave the domain out or train it"
            )
    if config.method == "fixed" and config.fixed.keys() != differences.keys():
        raise ValueError(
            f"`fixed` must give a weight to exactly {list(differences)}, it names {sorted(config.fixed)}"
        )
    search_rows, comparison_rows = split_rows(
        validation, config.search_rows, config.comparison_rows, default_device()
    )
    if not config.controls:
        joint, control = None, None
    identity = _identity(config, diffs, joint, control, search_rows, comparison_rows)
    with _folder(work_dir) as folder, open_journal(folder, identity) as journal:
        model = WeightedModel(load_model(base_dir), base, differences)
        found = _search(model, search_rows, config, journal, log)
        search = Spent(found.tokens, journal.cpu_seconds(SEARCH))
        candidates = _candidates(found, search, training_costs or {}, config)
        comparison = _Comparison(base_dir, comparison_rows, config.batch_size, journal, log)
        for candidate in track(candidates, log, "candidates measured", len(candidates)):
            losses = comparison.measure(candidate, model)
        require_finite(losses, model, comparison_rows, found.weights, "search or give smaller weights")
        del model  # the controls need its memory
        if joint is not None:
            comparison.measure_control(Candidate(JOINT, None, joint_cost), joint)
        trained_tokens = 0
        if control is not None and found.tokens:
            control_dir = folder / CONTROL_FOLDER
            trained, cost = train_on_rows(base_dir, search_rows, found.tokens, control, control_dir, log)
            comparison.measure_control(Candidate(ON_VALIDATION, None, cost), trained)
            trained_tokens = cost.tokens
    table = candidate_table(
        comparison.candidates, comparison.losses, comparison_rows, list(differences), config.seed
    )
    means = dict(zip(table["candidate"].to_pylist(), table["mean_nll"].to_pylist(), strict=True))
    finite = {each.name: each for each in candidates if means[each.name] is not None}
    last = candidates[-1].name
    chosen = finite[last if config.method == "fixed" else min(finite, key=means.__getitem__)]
    assert chosen.weights is not None
    singles = [name for name in map(single, differences) if name in finite]
    return WeightSearch(
        weights=chosen.weights,
        chosen=chosen.name,
        searched=found.weights,
        best_single=min(singles, key=means.__getitem__, default=None),
        method=config.method,
        curve=found.curve,
        candidates=table,
        search_rows={domain: len(rows) for domain, rows in search_rows.items()},
        comparison_rows={domain: len(rows) for domain, rows in comparison_rows.items()},
        search_tokens=search.tokens,
        search_cpu_seconds=search.cpu_seconds,
        all_tokens=found.tokens + len(comparison.losses) * count_tokens(comparison_rows) + trained_tokens,
    )


def _search(model: WeightedModel, rows: Rows, config: WeightsConfig, journal: Journal, log: Log) -> Found:
    if config.method == "fixed":
        total = sum(config.fixed.values()) if config.normalize else 1.0
        return Found({domain: config.fixed[domain] / total for domain in model.domains}, [], 0)
    if config.method in ("gradient", "per_module"):
        return search_gradient(model, rows, config, journal, log)
    from yunmin_assets.dem.trial_search import search_grid, search_tpe  # optuna is slow to import

    return (search_grid if config.method == "grid" else search_tpe)(model, rows, config, journal, log)


def _candidates(
    found: Found, search: Spent, training_costs: Mapping[str, Spent], config: WeightsConfig
) -> list[Candidate]:
    """No edit, all domains alike, each domain alone, and last what the search found."""
    domains = list(found.weights)
    costs = [training_costs.get(domain) for domain in domains]
    known = [cost for cost in costs if cost is not None]
    of_all = sum(known, NOTHING) if len(known) == len(costs) else None
    candidates = [
        Candidate(BASE, dict.fromkeys(domains, 0.0), NOTHING),
        Candidate(UNIFORM, dict.fromkeys(domains, 1 / len(domains)), of_all),
    ]
    for domain, cost in zip(domains, costs, strict=True):
        alone: dict[str, Weight] = {other: float(other == domain) for other in domains}
        candidates.append(Candidate(single(domain), alone, cost))
    name = FIXED if config.method == "fixed" else SEARCHED
    return [*candidates, Candidate(name, found.weights, of_all, search)]


class _Comparison:
    """Measures candidates, one after the other, on the same rows."""

    def __init__(self, base_dir: Path, rows: Rows, batch_size: int, journal: Journal, log: Log):
        self._base_dir, self._rows, self._batch_size = base_dir, rows, batch_size
        self._journal, self._log = journal, log
        self.candidates: dict[str, Candidate] = {}
        self.losses: dict[str, dict[str, list[float]]] = {}

    def measure(self, candidate: Candidate, model: WeightedModel) -> dict[str, float]:
        """Its loss per token on the rows of each domain, finite or not."""
        weights = candidate.weights or dict.fromkeys(model.domains, 1.0)

        def compute() -> dict[str, list[float]]:
            model.set_weights(weights)
            return losses_of_rows(model, self._rows, self._batch_size)

        losses = self._journal.once(MEASUREMENT, [candidate.name, weights], compute)
        self.candidates[candidate.name], self.losses[candidate.name] = candidate, losses
        per_token = loss_per_token(losses, self._rows)
        if domains := not_finite(per_token):
            self._log(
                f"candidate {candidate.name!r} is not finite on {domains}: it has no loss and is not chosen"
            )
        return per_token

    def measure_control(self, candidate: Candidate, difference: Path) -> None:
        """The base with the whole of one difference."""
        base = WeightFiles(self._base_dir)
        opened = open_differences(base, {candidate.name: difference})
        self.measure(candidate, WeightedModel(load_model(self._base_dir), base, opened))


@contextmanager
def _folder(work_dir: Path | None) -> Iterator[Path]:
    if work_dir is not None:
        yield work_dir
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def _identity(
    config: WeightsConfig,
    diffs: Mapping[str, Path],
    joint: Path | None,
    control: LoraConfig | None,
    *rows: Rows,
) -> str:
    """What must be equal for a search to be continued: options, differences, and rows.

    A difference's description holds the fingerprint of its base, which is the base's of this search, and the CRC-32 of
    every tensor of it that is changed: the base needs no line of its own.
    """
    digest = hashlib.sha256(f"{config.model_dump_json()}\n{control and control.model_dump_json()}\n".encode())
    for name, folder in [*sorted(diffs.items()), *([(JOINT, joint)] if joint else [])]:
        digest.update(f"{name} {sha256_of(folder / DESCRIPTION_FILE)}\n".encode())
    for part in rows:
        for domain, of_domain in part.items():
            digest.update(f"{domain} {tuple(of_domain.inputs.shape)}\n".encode())
            digest.update(torch.stack([of_domain.inputs, of_domain.labels]).cpu().numpy().tobytes())
    return digest.hexdigest()

"""The training of one adapter as a description in JSON: run in this process, or by one process per GPU.

    run_adapter_job(job)                  in this process
    run_adapter_job(job, processes=4)     by four processes on this machine
    torchrun --nproc-per-node 4 -m yunmin_assets.dem.adapter_job job.json      the same, by hand

`accelerate launch -m` starts it as well. Any number of processes trains on the same global batches and goes on from
the same checkpoints.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import Field

from yunmin_assets.columnar.loader import DEFAULT_LANES, PackedDataset
from yunmin_assets.columnar.manifest import PackManifest
from yunmin_assets.columnar.mixed_loader import MixedDataset
from yunmin_assets.columnar.tokenizer import tokenizer_hash
from yunmin_assets.config_model import ConfigModel
from yunmin_assets.dem.adapter import train_adapter
from yunmin_assets.dem.config import LoraConfig
from yunmin_assets.language_model.architecture import use_device
from yunmin_assets.language_model.checkpoint import read_state
from yunmin_assets.language_model.loss import Batch
from yunmin_assets.language_model.processes import run_in_processes, talk_to_parent
from yunmin_assets.language_model.ranks import ALONE, Ranks, join_ranks
from yunmin_assets.language_model.training import Batches, Report, TrainingResult, Validation, no_report
from yunmin_assets.progress import Log, silent


class AdapterJob(ConfigModel):
    """What is trained on what, and where to. Domains are names → folders written by `pack_documents`."""

    base: Path
    """Hugging Face folder of the base model."""
    train: dict[str, Path]
    """Training rows; several domains are mixed in proportion to their rows."""
    validation: dict[str, Path]
    """Validation rows that decide when training ends."""
    config: LoraConfig
    tokens: int | None = Field(default=None, ge=1, strict=True)
    """Train on so many instead of `config.training.steps` steps; see `train`."""
    out: Path
    """Folder for the adapter; must be absent or empty."""
    checkpoints: Path
    device: str | None = None
    """"cpu", or None for a GPU when there is one."""


def run_adapter_job(
    job: AdapterJob, *, processes: int = 1, log: Log = silent, report: Report = no_report
) -> TrainingResult:
    """Train as the job says.

    Args:
        job: All folders on this machine.
        processes: More than one are started by torchrun, end with this one, and share the batches out.
        log: Receives progress lines.
        report: Receives the losses while they come in.

    Raises:
        ValueError: The rows do not fit the base's tokenizer, or are fewer than one batch; `train_adapter`.
        RuntimeError: One of several processes failed; says what it raised and how it ended.
    """
    require_fitting_rows(job)
    if processes == 1:
        use_device(job.device)
        return train_job(job, ALONE, log=log, report=report)
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    description = job.checkpoints / "job.json"
    description.write_text(job.model_dump_json(indent=1) + "\n", encoding="utf-8")
    module = "yunmin_assets.dem.adapter_job"
    run_in_processes(
        module, description, processes, log=log, report=lambda values: report(TrainingResult(**values))
    )
    state = read_state(job.checkpoints)
    if state is None or not job.out.exists():
        raise RuntimeError(
            f"{processes} processes ended without an error, but left no checkpoint in {job.checkpoints} or no "
            f"adapter in {job.out}: run again with one process"
        )
    return TrainingResult(**state["result"])


def require_fitting_rows(job: AdapterJob) -> None:
    """Refuse rows of another tokenizer than the base's, and fewer of them than a batch takes.

    Raises:
        ValueError: Names the folder and the cure.
    """
    own = tokenizer_hash(job.base)
    embedded = json.loads((job.base / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    manifests = {domain: PackManifest.read(folder) for domain, folder in job.train.items()}
    held_out = [(domain, folder, PackManifest.read(folder)) for domain, folder in job.validation.items()]
    for domain, folder, manifest in [
        *((domain, job.train[domain], manifest) for domain, manifest in manifests.items()),
        *held_out,
    ]:
        if manifest.tokenizer_hash != own or manifest.vocab_size > embedded:
            raise ValueError(
                f"the rows of {domain!r} in {folder} were made with another tokenizer than that of the "
                f"base in {job.base}: pack the domain again with the base's tokenizer (tokenizer.path)"
            )
    rows, batch = sum(manifest.rows for manifest in manifests.values()), job.config.training.batch_size
    if rows < batch:
        length = next(iter(manifests.values())).seq_len
        raise ValueError(
            f"{', '.join(manifests)}: {rows} training rows of {length} tokens are fewer than one batch of {batch}, so "
            "every step would see all of them: deliver more text, or lower lora_adapter.training.batch_size or "
            "pack.seq_len"
        )


def largest_process_count(available: int, batch_size: int) -> int:
    """How many of the available GPUs can share a batch evenly; the loader wants a divisor of its lanes, too."""
    return max(
        count
        for count in range(1, max(available, 1) + 1)
        if not DEFAULT_LANES % count and not batch_size % count
    )


def train_job(job: AdapterJob, ranks: Ranks, *, log: Log, report: Report) -> TrainingResult:
    """One rank's part of a job."""
    return train_adapter(
        job.base,
        _training_batches(job, ranks),
        job.config,
        job.out,
        job.checkpoints,
        tokens=job.tokens,
        validation=validation_of(job, ranks),
        ranks=ranks,
        log=log,
        report=report,
    )


def _training_batches(job: AdapterJob, ranks: Ranks) -> Batches:
    training = job.config.training
    options: dict[str, Any] = {
        "batch_size": training.batch_size,
        "seed": training.seed,
        "rank": ranks.rank,
        "world_size": ranks.count,
    }
    if len(job.train) == 1:
        return PackedDataset(next(iter(job.train.values())), epochs=None, **options)
    rows = {domain: float(PackManifest.read(folder).rows) for domain, folder in job.train.items()}
    return MixedDataset(job.train, rows, **options)


def validation_of(job: AdapterJob, ranks: Ranks) -> Validation | None:
    """The first rows of each domain, held in memory."""
    stopping, batch_size = job.config.early_stopping, job.config.training.batch_size
    if stopping.validate_every == 0 or not job.validation:
        return None
    batches: list[Batch] = []
    for folder in job.validation.values():
        rows = PackedDataset(
            folder, batch_size=batch_size, shuffle=False, rank=ranks.rank, world_size=ranks.count
        )
        batches += itertools.islice(rows, -(-stopping.rows // batch_size))
    return Validation(batches, stopping)


def main(description: Path) -> None:
    """One of several processes that torchrun or `accelerate launch` started."""
    with talk_to_parent() as parent:
        job = AdapterJob.model_validate_json(description.read_text(encoding="utf-8"))
        require_fitting_rows(job)
        ranks = join_ranks(job.device)

        def report(result: TrainingResult) -> None:
            parent.report(vars(result))

        train_job(job, ranks, log=parent.log, report=report)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

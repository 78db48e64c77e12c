"""Which criterion? One small model for every selection, trained on equally many tokens and measured on held-out text.

An *arm* is a criterion, a rate and a seed. Its documents are those that `pruned_corpus` would keep; arms of one seed
share initial weights and training options. Every step takes a whole batch (the incomplete one at the end of an epoch
is left out), so all arms see exactly as many tokens; a small selection is repeated.

- Measured on validation documents, the same for every arm; test documents are for the evaluation report alone.
- Resumable: a finished arm is a folder that appears whole, an interrupted training goes on from its checkpoint, and
  `study.json` has the same bytes after any history of kills, on the same kind of processor.

Held-out perplexity alone must not decide: arXiv 2405.20541 finds pruned data with worse perplexity and better tasks.

Price: arms × seeds trainings; on the disk the packed rows of one arm, and the models of all.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.manifest import PackManifest
from yunmin_assets.columnar.mixture import mixture_batches
from yunmin_assets.documents import split_path
from yunmin_assets.files import new_folder, write_whole
from yunmin_assets.language_model.loss import Batch
from yunmin_assets.language_model.pretraining import train_from_scratch
from yunmin_assets.language_model.training import Batches, TrainingResult
from yunmin_assets.parquet_batches import iterate_batches
from yunmin_assets.progress import Log, silent
from yunmin_assets.pruning.config import PruningConfig, StudyConfig
from yunmin_assets.pruning.reading import ROWS_AT_ONCE, picked_rows
from yunmin_assets.pruning.removal import prune_documents
from yunmin_assets.pruning.scoring import score_documents
from yunmin_assets.pruning.selection import ScoreFile, find_cuts
from yunmin_assets.pruning.study_comparison import FEWEST_DOCUMENTS
from yunmin_assets.pruning.study_report import Arm, ArmFacts, StudyReport, report_on

STUDY_FILE = "study.json"
ARMS = "arms"
"""Folder with a folder for each arm: its model, facts and held-out scores."""
MODEL, FACTS_FILE, HELD_OUT_FILE = "model", "arm.json", "held_out.parquet"
LAST_STEPS = 10


@dataclass(frozen=True)
class StudyInputs:
    """What is selected from and measured on, by domain, and the tokenizer of all arms."""

    train: Mapping[str, Path]
    """Parquet files of documents."""
    scores: Mapping[str, Path]
    """What `score_file` wrote about them."""
    validation: Mapping[str, Path]
    """Parquet files of documents."""
    tokenizer_dir: Path


@dataclass(frozen=True)
class ArmCost:
    """What the process that finished an arm spent on it."""

    cpu_seconds: float
    resumed_at: int
    """Training step from which that process went on; those before it were paid by a process that was killed."""


def run_study(
    inputs: StudyInputs,
    config: StudyConfig,
    pruning: PruningConfig,
    pack: PackConfig,
    folder: Path,
    workspace: Path,
    *,
    log: Log = silent,
) -> tuple[StudyReport, dict[str, ArmCost]]:
    """Train and measure every arm, and write `study.json` and `arms/` into `folder`.

    Args:
        inputs: documents, scores and tokenizer.
        config: the arms and their training.
        pruning: how an arm selects (`thresholds`, `seed`) and how documents are scored (`token_budget`, `max_length`).
        pack: layout of the packed rows; `seq_len` is the row length of training.
        folder: where the results go.
        workspace: keeps finished arms and checkpoints of an interrupted run of just this study; remove it afterwards.
        log: which arm of how many, and the time left.

    Returns:
        The content of `study.json`, and by arm name what it cost.

    Raises:
        ValueError: no domain has enough validation documents, or an arm selects less than one batch; names it.
        FloatingPointError, OSError: see `train`.
    """
    held_out = choose_held_out(inputs.validation, config.documents_per_domain)
    arms, training = list_arms(config), _Training(inputs, config, pruning, pack, held_out, workspace)
    for number, arm in enumerate(arms, start=1):
        finished = workspace / ARMS / arm.name
        if not finished.exists():
            of_arm = _named(f"arm {number} of {len(arms)}, {arm.name}", log)
            with new_folder(finished) as part:
                training.fill(arm, part, arms_left=len(arms) - number, log=of_arm)
            shutil.rmtree(training.scratch(arm))
    shutil.copytree(workspace / ARMS, folder / ARMS, ignore=shutil.ignore_patterns("*.lock", "*.part"))
    facts = {arm: read_facts(folder, arm) for arm in arms}
    scores = {arm: pq.read_table(folder / ARMS / arm.name / HELD_OUT_FILE) for arm in arms}
    report = report_on(facts, scores, config)
    write_whole(folder / STUDY_FILE, report.model_dump_json(indent=1) + "\n")
    return report, {arm.name: training.cost(arm) for arm in arms}


def list_arms(config: StudyConfig) -> list[Arm]:
    """The arms in the order of the configuration, all of one seed before those of the next."""
    return [
        Arm(criterion=criterion, rate=rate, seed=seed)
        for seed in range(config.seeds)
        for criterion, rates in config.arms.items()
        for rate in rates
    ]


def arm_selection(arm: Arm, pruning: PruningConfig) -> PruningConfig:
    """How an arm selects; with seed 0 as `pruned_corpus` does with its criterion and rate."""
    changes = {"criterion": arm.criterion, "selection_rate": arm.rate, "seed": pruning.seed + arm.seed}
    return pruning.model_copy(update=changes)


def read_facts(folder: Path, arm: Arm) -> ArmFacts:
    """What a finished arm selected and trained on."""
    return ArmFacts.model_validate_json((folder / ARMS / arm.name / FACTS_FILE).read_text(encoding="utf-8"))


def choose_held_out(files: Mapping[str, Path], count: int) -> pa.Table:
    """Columns `domain`, `id` and `text` of at most `count` documents per domain, chosen by a hash of their id.

    Raises:
        ValueError: no domain has enough of them for a comparison.
    """
    chosen = []
    for domain, path in sorted(files.items()):
        rows = _first_by_hash(path, count)
        documents = picked_rows(path, ["id", "text"], rows)
        documents = documents.filter(pc.utf8_length(pc.utf8_trim_whitespace(pc.field("text"))) > 0)
        chosen.append(documents.add_column(0, "domain", pa.array([domain] * documents.num_rows, pa.string())))
    if not any(documents.num_rows >= FEWEST_DOCUMENTS for documents in chosen):
        raise ValueError(
            f"no domain has {FEWEST_DOCUMENTS} validation documents ({', '.join(sorted(files))}), fewer cannot tell "
            "arms apart: raise splits.validation or deliver more text"
        )
    return pa.concat_tables(chosen)


class WholeBatches:
    """A stream without the incomplete batch at the end of an epoch, so that every step costs the same tokens."""

    def __init__(self, batches: Batches, batch_size: int) -> None:
        self._batches, self._batch_size = batches, batch_size

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self._batches if len(batch["input_ids"]) == self._batch_size)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batches.load_state_dict(state)


@dataclass(frozen=True)
class _Training:
    """Trains and measures one arm after the other."""

    inputs: StudyInputs
    config: StudyConfig
    pruning: PruningConfig
    pack: PackConfig
    held_out: pa.Table
    workspace: Path

    def fill(self, arm: Arm, part: Path, *, arms_left: int, log: Log) -> None:
        """Everything about an arm, into its folder."""
        started = time.process_time()
        training = self.config.training.model_copy(update={"seed": self.config.training.seed + arm.seed})
        result = train_from_scratch(
            self._batches(arm, training.batch_size, training.seed, log),
            self.config.model,
            training,
            self.inputs.tokenizer_dir,
            part / MODEL,
            self.scratch(arm) / "checkpoints",
            log=log,
            report=lambda so_far: log(_time_left(so_far, training.steps, arms_left)),
        )
        self._measure(part, log)
        facts = _facts(PackManifest.read(self.scratch(arm) / "packed"), result)
        write_whole(part / FACTS_FILE, facts.model_dump_json(indent=1) + "\n")
        cost = {"cpu_seconds": round(time.process_time() - started, 1), "resumed_at": result.resumed_at}
        write_whole(self._cost_file(arm), json.dumps(cost))

    def cost(self, arm: Arm) -> ArmCost:
        return ArmCost(**json.loads(self._cost_file(arm).read_text(encoding="utf-8")))

    def scratch(self, arm: Arm) -> Path:
        """What an arm needs until it is finished."""
        return self.workspace / "unfinished" / arm.name

    def _cost_file(self, arm: Arm) -> Path:
        return self.workspace / f"cost-{arm.name}.json"

    def _batches(self, arm: Arm, batch_size: int, seed: int, log: Log) -> WholeBatches:
        """Select as `pruned_corpus` does, and pack all domains together; both only if that was not done yet."""
        selected, packed = self.scratch(arm) / "selected", self.scratch(arm) / "packed"
        if not packed.exists():
            scores = {domain: ScoreFile(path) for domain, path in self.inputs.scores.items()}
            for domain, cut in find_cuts(scores, arm_selection(arm, self.pruning)).items():
                prune_documents(
                    self.inputs.train[domain], self.inputs.scores[domain], cut, selected / domain, log=log
                )
        files = [split_path(selected / domain, "train") for domain in sorted(self.inputs.train)]
        batches = mixture_batches(
            files, self.inputs.tokenizer_dir, packed, self.pack, batch_size=batch_size, seed=seed, log=log
        )
        shutil.rmtree(selected, ignore_errors=True)
        if (rows := PackManifest.read(packed).rows) < batch_size:
            raise ValueError(
                f"arm {arm.name} selects {rows} rows of {self.pack.seq_len} tokens, less than one batch of "
                f"{batch_size}: lower pruning_study.training.batch_size, or leave out the rate {arm.rate:g}"
            )
        return WholeBatches(batches, batch_size)

    def _measure(self, part: Path, log: Log) -> None:
        """Score the held-out documents by the arm's model."""
        scores = score_documents(
            self.held_out,
            part / MODEL,
            self.pruning.token_budget,
            max_length=self.pruning.max_length,
            log=log,
        )
        pq.write_table(scores.add_column(0, "domain", self.held_out["domain"]), part / HELD_OUT_FILE)


def _facts(packed: PackManifest, result: TrainingResult) -> ArmFacts:
    last = result.losses[-LAST_STEPS:]
    return ArmFacts(
        documents=packed.documents,
        tokens=packed.tokens,
        trained_tokens=result.tokens,
        epochs=result.tokens / (packed.rows * packed.seq_len),
        last_loss=sum(last) / len(last),
    )


def _first_by_hash(path: Path, count: int) -> list[int]:
    """Rows of the documents whose ids have the smallest hashes: the same documents on every machine."""
    ids = [name for batch in iterate_batches(path, ["id"], ROWS_AT_ONCE) for name in batch["id"].to_pylist()]
    hashes = [hashlib.blake2b(name.encode(), person=b"held-out", digest_size=8).digest() for name in ids]
    return sorted(range(len(ids)), key=lambda row: (hashes[row], ids[row]))[:count]


def _time_left(so_far: TrainingResult, steps: int, arms_left: int) -> str:
    done = len(so_far.losses)
    seconds = so_far.seconds / done * (steps - done + steps * arms_left)
    return f"about {seconds:,.0f} s of training left in the study"


def _named(name: str, log: Log) -> Log:
    return lambda line: log(f"{name}: {line}")

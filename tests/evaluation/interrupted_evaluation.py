"""A whole evaluation of tiny models, in a process of its own that is killed when it has kept so many results."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tests.evaluation.tiny_benchmarks import ROWS, write_rows
from tests.evaluation.tiny_models import save_scaled_model
from tests.language_model.toy import TEMPLATES, one_thread
from yunmin_assets.documents import DOCUMENT_SCHEMA, write_documents
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.evaluate import Findings, Models, Questions, evaluate_models, read_questions
from yunmin_assets.progress import Log, silent

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.evaluation.interrupted_evaluation"])
SECONDS = 60.0
RULES_FILE = Path(__file__).parents[2] / "configs" / "scoring_rules.yaml"
CONFIG = EvaluationConfig(documents_per_domain=20, bootstrap_samples=50, max_new_tokens=4, max_length=256)
DOMAINS = ("law", "food")
BENCHMARKS = ("kobest_copa", "kobest_wic 봄.tmp")
UNITS = 4 * len(DOMAINS) + 2 * 2 + 3 * len(BENCHMARKS)
"""Losses of four models, texts of two by two decodings, answers of three."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_models` is asked, as it goes to another process."""

    models: Models
    tests: dict[str, Path]
    training: list[Path]
    questions: Questions

    def run(self, out: Path, work: Path, log: Log = silent) -> Findings:
        """Evaluate into a new folder, as a step does in each attempt."""
        out.mkdir()
        with one_thread():
            return evaluate_models(
                self.models, self.tests, self.training, self.questions, CONFIG, out, work, log=log
            )


def prepare(home: Path) -> Evaluation:
    """Two models that differ, two domains, three prompts and two benchmarks."""
    base, merged = save_scaled_model(home / "base", 1.0), save_scaled_model(home / "merged", 1.5)
    tests = {domain: _write_split(home, domain, "test", 25) for domain in DOMAINS}
    training = [_write_split(home, domain, "train", 2) for domain in DOMAINS]
    prompts = [
        {"id": str(number), "kind": "poem", "prompt": f"{number}번째 봄이 오면"} for number in range(3)
    ]
    (home / "benchmarks").mkdir()
    for name in BENCHMARKS:
        write_rows(home / "benchmarks" / f"{name}.jsonl", list(ROWS[name.split()[0]]))
    questions = read_questions(
        write_rows(home / "prompts.jsonl", list(prompts)), RULES_FILE, home / "benchmarks"
    )
    return Evaluation(Models(base, merged, dict.fromkeys(DOMAINS, merged), base), tests, training, questions)


def _write_split(home: Path, domain: str, split: str, count: int) -> Path:
    path = home / domain / f"{split}.parquet"
    rows = [
        {"id": f"{split}-{n}", "text": TEMPLATES[domain][n % 2].format(n), "domain": domain, "source": ""}
        for n in range(count)
    ]
    write_documents(pa.Table.from_pylist(rows, DOCUMENT_SCHEMA), path)
    return path


def kept_files(work: Path) -> dict[tuple[str, ...], Path]:
    """By unit, the finished files of a work folder."""
    return {tuple(json.loads(path.read_text())["unit"]): path for path in work.glob("*.json")}


def run_until_kept(count: int, evaluation: Evaluation, out: Path, work: Path) -> None:
    """Evaluate, and stand still at the first line of the log after so many results."""

    def stand_still(_: str) -> None:
        if len(kept_files(work)) == count:
            time.sleep(SECONDS)

    evaluation.run(out, work, stand_still)


def kill_when_kept(count: int, evaluation: Evaluation, out: Path, work: Path) -> None:
    """Start an evaluation and send it SIGKILL when it has kept so many results."""
    process = SERVER.Process(target=run_until_kept, args=(count, evaluation, out, work))
    process.start()
    deadline = time.monotonic() + SECONDS
    while len(list(work.glob("*.json"))) < count:
        assert process.is_alive() and time.monotonic() < deadline, "the evaluation ended before it was killed"
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL

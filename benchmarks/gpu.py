"""The same training and the same scores on a CPU and on a GPU: are they the same, and how fast are they?

    python -m benchmarks.gpu                     Mamba-2 and Mamba-1, some minutes
    python -m benchmarks.gpu --steps 200 --json gpu.json

Needs one CUDA GPU; without one it says so and ends with status 2. Every run starts from the same weights and
sees the same batches of synthetic Korean text. Compared with float32 on the CPU are the loss curve (its largest
difference in nats per token) and the scores of documents (the largest relative difference of a negative
log-likelihood). Sums in another order differ in the last digits, and training enlarges that from step to step;
what is tolerated is FLOAT32_NATS, BFLOAT16_NATS and SCORE_SHARE.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from benchmarks.measure import describe_machine, machine_facts, markdown_table, versions
from yunmin_assets.columnar import (
    PackConfig,
    PackedDataset,
    TokenizerConfig,
    pack_documents,
    tokenize_documents,
    tokenizer_hash,
    train_tokenizer,
)
from yunmin_assets.corpus.sample.grammar import compose, load_domain
from yunmin_assets.language_model import ModelConfig, TrainingConfig, build_model, load_tokenizer, train
from yunmin_assets.language_model.architecture import use_device
from yunmin_assets.language_model.tokenizer import copy_tokenizer
from yunmin_assets.pruning import score_documents

NO_GPU = 2  # exit status
FLOAT32_NATS, BFLOAT16_NATS = 0.02, 0.1
"""Tolerances of a loss curve against float32 on the CPU."""
SCORE_SHARE = 1e-4
"""Tolerance of a document's score in float32."""
WARM_UP_STEPS = 3
DOCUMENTS, SCORED_DOCUMENTS, DOMAIN = 600, 32, "korean_textbook"
VOCABULARY, LENGTH, BATCH = 2048, 256, 8

Architecture = Literal["mamba2", "mamba"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Run:
    """One training run on one device."""

    architecture: Architecture
    device: str
    precision: Precision
    losses: list[float]
    tokens_per_second: float
    scores: list[float]
    """Negative log-likelihood of some documents by the untrained model, in nats."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit status: 1 when a tolerance is exceeded."""
    options = _parser().parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            "no CUDA GPU is visible here, so there is nothing to compare: run this on a machine with one, with a "
            "CUDA build of torch (`nvidia-smi` must list it)",
            file=sys.stderr,
        )
        return NO_GPU
    devices: list[tuple[str, Precision]] = [("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")]
    runs = compare(devices, options.steps, options.architectures.split(","))
    print(
        f"{torch.cuda.get_device_name()}; {describe_machine(machine_facts())}; {versions(['torch', 'transformers'])}\n"
    )
    print(table(runs))
    if options.json:
        options.json.write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs), encoding="utf-8")
    too_far = beyond_tolerance(runs)
    print("\n" + ("\n".join(too_far) if too_far else "every difference is within its tolerance"))
    return 1 if too_far else 0


def compare(devices: Sequence[tuple[str, Precision]], steps: int, architectures: Sequence[str]) -> list[Run]:
    """Train and score on every device, for each architecture; the first device is what others are held against."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_data(folder)
        return [
            _run(folder, ModelConfig.model_validate({"architecture": name}), device, precision, steps)
            for name in architectures
            for device, precision in devices
        ]


def differences(run: Run, reference: Run) -> tuple[float, float]:
    """Largest difference of the losses in nats, and largest relative difference of the scores."""
    nats = max(abs(a - b) for a, b in zip(run.losses, reference.losses, strict=True))
    share = max(abs(a - b) / b for a, b in zip(run.scores, reference.scores, strict=True))
    return nats, share


def beyond_tolerance(runs: Sequence[Run]) -> list[str]:
    """What differs more from the first run of the same architecture than it may."""
    found = []
    for run in runs:
        nats, share = differences(run, _reference(run, runs))
        allowed = FLOAT32_NATS if run.precision == "float32" else BFLOAT16_NATS
        name = f"{run.architecture} on {run.device} in {run.precision}"
        if not nats <= allowed:  # also when it is NaN
            found.append(f"{name}: losses differ by {nats:.4f} nats, more than {allowed}")
        if not share <= SCORE_SHARE:
            found.append(f"{name}: scores differ by {share:.1e}, more than {SCORE_SHARE}")
    return found


def table(runs: Sequence[Run]) -> str:
    """All runs in Markdown."""
    rows = []
    for run in runs:
        reference = _reference(run, runs)
        nats, share = differences(run, reference)
        rows.append(
            [
                f"{run.architecture}, {run.device}, {run.precision}",
                f"{run.tokens_per_second:,.0f}",
                f"{run.tokens_per_second / reference.tokens_per_second:.1f}×",
                f"{run.losses[-1]:.4f}",
                f"{nats:.4f}",
                f"{share:.1e}",
            ]
        )
    names = ["run", "tokens/s", "speed", "last loss", "loss differs by (nats)", "scores differ by"]
    return markdown_table(names, rows)


def _reference(run: Run, runs: Sequence[Run]) -> Run:
    return next(other for other in runs if other.architecture == run.architecture)


def _run(folder: Path, model_config: ModelConfig, device: str, precision: Precision, steps: int) -> Run:
    print(f"{model_config.architecture} on {device} in {precision}", file=sys.stderr)
    use_device(device)
    try:
        scores = _scores(folder, _model(folder, model_config))
        _train(folder, _model(folder, model_config), precision, WARM_UP_STEPS)
        result = _train(folder, _model(folder, model_config), precision, steps)
    finally:
        use_device(None)
    return Run(model_config.architecture, device, precision, result.losses, result.tokens_per_second, scores)


def _model(folder: Path, config: ModelConfig) -> PreTrainedModel:
    tokenizer = load_tokenizer(folder / "tokenizer")
    return build_model(config, len(tokenizer), tokenizer.eos_token_id, seed=0)


def _train(folder: Path, model: PreTrainedModel, precision: Precision, steps: int) -> Any:
    config = TrainingConfig(
        steps=steps, batch_size=BATCH, learning_rate=3e-3, checkpoint_every=steps, precision=precision
    )
    batches = PackedDataset(folder / "packed", BATCH, config.seed, epochs=None)
    with tempfile.TemporaryDirectory() as checkpoints:
        return train(model, batches, config, Path(checkpoints))


def _scores(folder: Path, model: PreTrainedModel) -> list[float]:
    texts = _texts(SCORED_DOCUMENTS, seed=1)
    documents = pa.table({"id": [str(number) for number in range(len(texts))], "text": texts})
    with tempfile.TemporaryDirectory() as model_dir:
        model.save_pretrained(model_dir)
        copy_tokenizer(folder / "tokenizer", Path(model_dir))
        return score_documents(documents, Path(model_dir))["nll"].to_pylist()


def _write_data(folder: Path) -> None:
    """`tokenizer` and `packed`, of synthetic text."""
    texts = _texts(DOCUMENTS, seed=0)
    train_tokenizer(iter(texts), TokenizerConfig(vocab_size=VOCABULARY), folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer")
    config = PackConfig(seq_len=LENGTH, vocab_size=len(tokenizer), eos_id=tokenizer.eos_token_id)
    tokens = tokenize_documents(pa.table({"text": texts}), folder / "tokenizer")
    pack_documents(tokens, folder / "packed", config, tokenizer_hash=tokenizer_hash(folder / "tokenizer"))


def _texts(count: int, seed: int) -> list[str]:
    domain, choice = load_domain(DOMAIN), random.Random(seed)
    return [compose(domain, choice) for _ in range(count)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare training and scoring on a GPU with those on a CPU.")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--architectures", default="mamba2,mamba", help="comma-separated")
    parser.add_argument(
        "--json", type=Path, help="write all losses and scores there, one JSON object per run"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

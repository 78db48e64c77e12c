"""Documents and a model for the benchmark of scoring."""

import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

if TYPE_CHECKING:
    from yunmin_assets.language_model import ModelConfig

TRAINED_ON = 300
"""Documents the tokenizer learns from."""
TRAINED_LENGTH, LEARNING_RATE = 256, 0.005
"""As the reference models of `configs/pipeline.yaml`."""


def read_corpus(path: Path, documents: int) -> pa.Table:
    """At most so many documents (id, text) of a JSONL file, at equal distances."""
    lines = list(_lines(path))
    chosen = np.unique(np.linspace(0, len(lines) - 1, min(documents, len(lines))).astype(int))
    rows = [json.loads(lines[line]) for line in chosen]
    return pa.table({"id": [row["id"] for row in rows], "text": [row["text"] for row in rows]})


def sample_documents(documents: int) -> pa.Table:
    """Synthetic documents of every domain of the sample corpus, in turn."""
    from yunmin_assets.corpus.sample import write_sample_corpus

    with tempfile.TemporaryDirectory() as folder:
        write_sample_corpus(Path(folder))
        domains = [list(_lines(path)) for path in sorted(Path(folder).glob("*.jsonl*"))]
    rows = [json.loads(line) for group in zip(*domains, strict=False) for line in group if _is_document(line)]
    rows = rows[:documents]
    return pa.table(
        {"id": [f"d{number}" for number in range(len(rows))], "text": [row["text"] for row in rows]}
    )


def prepare_model(
    documents: pa.Table, folder: Path, hidden_size: int, layers: int, vocab_size: int, steps: int
) -> None:
    """Save a Mamba-2, trained on the documents for so many steps, and a tokenizer trained on some of them."""
    from yunmin_assets.columnar import TokenizerConfig, train_tokenizer
    from yunmin_assets.language_model import ModelConfig, build_model, load_tokenizer
    from yunmin_assets.language_model.tokenizer import copy_tokenizer

    own = folder.with_name("tokenizer")
    step = max(documents.num_rows // TRAINED_ON, 1)
    train_tokenizer(
        iter([documents["text"].to_pylist()[::step]]), TokenizerConfig(vocab_size=vocab_size), own
    )
    tokenizer = load_tokenizer(own)
    config = ModelConfig(hidden_size=hidden_size, layers=layers)
    if steps:
        _train(documents, folder, config, own, steps)
    else:
        build_model(config, len(tokenizer), tokenizer.eos_token_id, seed=0).save_pretrained(folder)
        copy_tokenizer(own, folder)


def _train(documents: pa.Table, folder: Path, config: "ModelConfig", tokenizer_dir: Path, steps: int) -> None:
    from yunmin_assets.columnar import PackConfig
    from yunmin_assets.columnar.mixture import mixture_batches
    from yunmin_assets.language_model import TrainingConfig, load_tokenizer, train_from_scratch

    tokenizer = load_tokenizer(tokenizer_dir)
    pack = PackConfig(seq_len=TRAINED_LENGTH, vocab_size=len(tokenizer), eos_id=tokenizer.eos_token_id)
    training = TrainingConfig(steps=steps, learning_rate=LEARNING_RATE)
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "documents.parquet"
        pq.write_table(documents, file)
        packed = Path(work) / "packed"
        batches = mixture_batches(
            [file], tokenizer_dir, packed, pack, batch_size=training.batch_size, seed=training.seed
        )
        train_from_scratch(batches, config, training, tokenizer_dir, folder, Path(work) / "checkpoints")


def _lines(path: Path) -> Iterator[str]:
    openers: dict[str, Callable[..., TextIO]] = {".zst": zstandard.open, ".gz": gzip.open}
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8", errors="replace") as file:
        yield from file


def _is_document(line: str) -> bool:
    """The sample corpus holds broken lines on purpose."""
    try:
        return bool(json.loads(line).get("text"))
    except (json.JSONDecodeError, AttributeError):
        return False

"""Documents, base model and adapters for the benchmark of weight searches.

Near-duplicates are removed over all domains; then each document goes to train, validation or test by its place in its
domain. The base is trained on all domains mixed, in equal parts of rows; each domain's adapter on its own rows; the
joint adapter on those of all, on as many tokens as all adapters together.
"""

import gzip
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from yunmin_assets.columnar import (
    MixedDataset,
    PackConfig,
    TokenizerConfig,
    pack_documents,
    tokenize_documents,
    tokenizer_hash,
    train_tokenizer,
)
from yunmin_assets.corpus.sample import write_sample_corpus
from yunmin_assets.dedup import DedupConfig, deduplicate
from yunmin_assets.dem import LoraConfig, diff_adapter
from yunmin_assets.dem.adapter_job import AdapterJob, run_adapter_job
from yunmin_assets.language_model import ModelConfig, TrainingConfig, load_tokenizer, train_from_scratch
from yunmin_assets.language_model.config import EarlyStoppingConfig

SPLITS = ("validation", "test")
EVERY = 5
"""Of so many documents one is for validation and one for test."""
TOKENIZER_DOCUMENTS = 200
"""Of each domain the tokenizer learns from."""
BASE_LEARNING_RATE, ADAPTER_LEARNING_RATE = 0.005, 0.005
JOINT = "joint"


class Sizes(NamedTuple):
    """How large everything is that is trained."""

    vocab_size: int
    hidden_size: int
    layers: int
    seq_len: int
    base_steps: int
    adapter_steps: int
    rank: int


def read_domains(folder: Path, names: Sequence[str], documents: int) -> dict[str, list[str]]:
    """At most so many texts of each domain's `<name>.jsonl[.gz|.zst]` or `<name>.parquet`.

    Raises:
        FileNotFoundError: A domain has no such file.
    """
    texts = {}
    for name in names:
        path = next(
            (folder / f"{name}{suffix}" for suffix in READERS if (folder / f"{name}{suffix}").is_file()), None
        )
        if path is None:
            raise FileNotFoundError(f"{folder} holds no {name} ({', '.join(READERS)})")
        reader = READERS[path.name.removeprefix(name)]
        texts[name] = list(itertools.islice(reader(path), documents))
    return texts


def sample_domains(names: Sequence[str], documents: int) -> dict[str, list[str]]:
    """The same of the synthetic sample corpus."""
    with tempfile.TemporaryDirectory() as folder:
        write_sample_corpus(Path(folder))
        return read_domains(Path(folder), names, documents)


def prepare(texts: Mapping[str, list[str]], sizes: Sizes, folder: Path, log: Callable[[str], None]) -> None:
    """Write everything a search needs into `folder`, and what the adapters cost into `costs.json`."""
    kept = without_duplicates(texts)
    some = (text for own in kept.values() for text in own[:TOKENIZER_DOCUMENTS])
    train_tokenizer(some, TokenizerConfig(vocab_size=sizes.vocab_size), folder / "tokenizer")
    for domain, own in kept.items():
        for split, chosen in split_documents(own).items():
            pack_rows(chosen, folder, split, domain, sizes.seq_len)
    log("training the base")
    training = TrainingConfig(steps=sizes.base_steps, learning_rate=BASE_LEARNING_RATE)
    train = {domain: folder / "rows" / domain / "train" for domain in kept}
    batches = MixedDataset(train, dict.fromkeys(train, 1.0), batch_size=training.batch_size)
    model = ModelConfig(hidden_size=sizes.hidden_size, layers=sizes.layers)
    train_from_scratch(
        batches, model, training, folder / "tokenizer", folder / "base", folder / "checkpoints" / "base"
    )
    costs: dict[str, dict[str, float]] = {}
    for domain, path in train.items():
        log(f"training the adapter of {domain}")
        costs[domain] = _adapter(folder, domain, {domain: path}, sizes, sizes.adapter_steps)
    log("training the joint adapter")
    costs[JOINT] = _adapter(folder, JOINT, train, sizes, sizes.adapter_steps * len(train))
    (folder / "costs.json").write_text(json.dumps(costs))


def without_duplicates(texts: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """One document of those that are alike, over all domains."""
    rows = [
        {"id": f"{domain} {place}", "domain": domain, "text": text}
        for domain, own in texts.items()
        for place, text in enumerate(own)
    ]
    kept = deduplicate(pa.Table.from_pylist(rows), DedupConfig())["kept"].to_pylist()
    return {
        domain: [
            row["text"] for row, stays in zip(rows, kept, strict=True) if stays and row["domain"] == domain
        ]
        for domain in texts
    }


def split_documents(texts: list[str]) -> dict[str, list[str]]:
    """Whole documents for train, validation and test."""
    held_out = {split: texts[place::EVERY] for place, split in enumerate(SPLITS)}
    return {"train": [text for place, text in enumerate(texts) if place % EVERY >= len(SPLITS)], **held_out}


def pack_rows(texts: list[str], folder: Path, split: str, domain: str, seq_len: int) -> None:
    """Write `<folder>/rows/<domain>/<split>`."""
    tokenizer_dir = folder / "tokenizer"
    tokenizer = load_tokenizer(tokenizer_dir)
    pack = PackConfig(seq_len=seq_len, vocab_size=len(tokenizer), eos_id=tokenizer.eos_token_id)
    tokens = tokenize_documents(pa.table({"text": texts}), tokenizer_dir)
    out = folder / "rows" / domain / split
    pack_documents(tokens, out, pack, domain=domain, tokenizer_hash=tokenizer_hash(tokenizer_dir))


def lora_config(rank: int, steps: int) -> LoraConfig:
    """As adapters are trained here: to the last step."""
    return LoraConfig(
        rank=rank,
        alpha=2.0 * rank,
        training=TrainingConfig(steps=steps, learning_rate=ADAPTER_LEARNING_RATE),
        early_stopping=EarlyStoppingConfig(validate_every=0),
    )


def _adapter(
    folder: Path, name: str, train: Mapping[str, Path], sizes: Sizes, steps: int
) -> dict[str, float]:
    """Train one and take its difference; what the training cost."""
    started = time.process_time()
    job = AdapterJob(
        base=folder / "base",
        train=dict(train),
        validation={},
        config=lora_config(sizes.rank, steps),
        out=folder / "adapters" / name,
        checkpoints=folder / "checkpoints" / name,
        device="cpu",
    )
    result = run_adapter_job(job)
    cost = {"tokens": result.tokens, "cpu_seconds": time.process_time() - started}
    diff_adapter(folder / "base", folder / "adapters" / name, folder / "differences" / name)
    return cost


def _texts_of_lines(path: Path) -> Iterator[str]:
    """Texts of a JSONL file; lines that are no document are passed over: the sample corpus has some on purpose."""
    openers: dict[str, Callable[..., TextIO]] = {".zst": zstandard.open, ".gz": gzip.open}
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                text = json.loads(line).get("text")
            except (json.JSONDecodeError, AttributeError):
                continue
            if isinstance(text, str) and text.strip():
                yield text


def _texts_of_parquet(path: Path) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["text"]):
            yield from filter(None, batch["text"].to_pylist())


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".jsonl.zst": _texts_of_lines,
    ".jsonl.gz": _texts_of_lines,
    ".jsonl": _texts_of_lines,
    ".parquet": _texts_of_parquet,
}

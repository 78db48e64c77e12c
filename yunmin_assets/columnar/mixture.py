"""Training batches from Parquet documents of several domains: tokenised, packed and shuffled first."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.loader import PackedDataset
from yunmin_assets.columnar.manifest import MANIFEST_FILE, PackManifest
from yunmin_assets.columnar.packing import pack_documents
from yunmin_assets.columnar.tokenizer import tokenize_batches, tokenizer_hash
from yunmin_assets.documents import document_batches
from yunmin_assets.progress import Log, silent

COMPARED_OPTIONS = ("seq_len", "vocab_size", "eos_id", "seed")


def mixture_batches(
    files: Sequence[Path],
    tokenizer_dir: Path,
    folder: Path,
    config: PackConfig,
    *,
    batch_size: int,
    seed: int,
    belongs: Callable[[str], bool] | None = None,
    log: Log = silent,
) -> PackedDataset:
    """An endless loader over the documents of `files`, mixed in proportion to their tokens.

    Args:
        files: Parquet files with columns `id` and `text`.
        tokenizer_dir: folder written by `train_tokenizer`.
        folder: where the packed rows go; rows that a killed run packed there are used again.
        config: layout of the rows.
        batch_size: rows in a batch.
        seed: of the order of the rows.
        belongs: which document ids take part; all when it is absent.
        log: progress.

    Raises:
        ValueError: no document takes part, or none has a token; a text is null or not UTF-8; or the rows in
            `folder` were packed with another tokenizer or layout.
    """
    fingerprint = tokenizer_hash(tokenizer_dir)
    if (folder / MANIFEST_FILE).exists():
        _refuse_other_rows(folder, config, fingerprint)
    else:
        batches = tokenize_batches(_chosen(files, belongs or (lambda _: True)), tokenizer_dir)
        tokens = itertools.chain.from_iterable(batch.split() for batch in batches)
        pack_documents(tokens, folder, config, tokenizer_hash=fingerprint, log=log)
    return PackedDataset(folder, batch_size=batch_size, seed=seed, epochs=None)


def _chosen(files: Iterable[Path], belongs: Callable[[str], bool]) -> Iterator[pa.RecordBatch]:
    for path in files:
        for batch in document_batches(path, ["id", "text"]):
            mask = pa.array([belongs(identifier) for identifier in batch["id"].to_pylist()], pa.bool_())
            if pc.any(mask).as_py():
                yield batch.filter(mask)


def _refuse_other_rows(folder: Path, config: PackConfig, fingerprint: str) -> None:
    manifest = PackManifest.read(folder)
    asked = {"tokenizer_hash": fingerprint} | config.model_dump(include=set(COMPARED_OPTIONS))
    for name, now in asked.items():
        if (packed := getattr(manifest, name)) != now:
            raise ValueError(
                f"the rows in {folder} were packed with another {name} ({packed}, now {now}): remove the folder, "
                "or use another"
            )

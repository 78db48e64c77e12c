"""Training batches from Parquet documents of several domains: tokenised, packed and shuffled first."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.loader import PackedDataset
from yunmin_assets.columnar.manifest import MANIFEST_FILE
from yunmin_assets.columnar.packing import pack_documents
from yunmin_assets.columnar.tokenizer import tokenize_documents, tokenizer_hash
from yunmin_assets.documents import ROW_GROUP_DOCUMENTS
from yunmin_assets.progress import Log, silent


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
        ValueError: no document takes part, or none has a token.
    """
    if not (folder / MANIFEST_FILE).exists():
        documents = _chosen(files, belongs or (lambda _: True))
        tokens = tokenize_documents(documents, tokenizer_dir)
        pack_documents(tokens, folder, config, tokenizer_hash=tokenizer_hash(tokenizer_dir), log=log)
    return PackedDataset(folder, batch_size=batch_size, seed=seed, epochs=None)


def _chosen(files: Iterable[Path], belongs: Callable[[str], bool]) -> Iterator[pa.RecordBatch]:
    for path in files:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(ROW_GROUP_DOCUMENTS, columns=["id", "text"]):
                mask = pa.array([belongs(identifier) for identifier in batch["id"].to_pylist()], pa.bool_())
                if pc.any(mask).as_py():
                    yield batch.filter(mask)

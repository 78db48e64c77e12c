"""Synthetic token documents, packed data sets, and what pyarrow reads back from them."""

import itertools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from yunmin_assets.columnar import PackConfig, PackedBatch, pack_documents

SMALL = {"seq_len": 16, "vocab_size": 500, "page_bytes": 150, "rows_per_row_group": 32, "shard_bytes": 2000}
"""Four rows to a page, eight pages to a row group, two row groups to a shard."""


def random_documents(count: int, seed: int = 0, vocab_size: int = 500) -> list[np.ndarray]:
    """Documents of 0 to 60 token ids, without the end-of-text id 0."""
    random = np.random.default_rng(seed)
    return [random.integers(1, vocab_size, random.integers(0, 61)) for _ in range(count)]


def rows_by_pyarrow(folder: Path, dtype: str = "<u2") -> np.ndarray:
    """All rows of a packed data set in stored order, tokens [rows, seq_len + 1]."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return np.array([np.frombuffer(row, dtype) for table in tables for row in table["tokens"].to_pylist()])


def pack_small(folder: Path, documents: list[np.ndarray], **options: object) -> PackConfig:
    config = PackConfig(**{**SMALL, **options})
    pack_documents(documents, folder, config, domain="novels")
    return config


def rows_of_batch(batch: PackedBatch) -> list[tuple[int, ...]]:
    """A batch's rows as tuples of seq_len + 1 tokens; a masked label stands for the end-of-text token 0."""
    joined = torch.cat([batch["input_ids"], batch["labels"][:, -1:].clamp(min=0)], dim=1)
    return [tuple(row) for row in joined.tolist()]


def are_same_batch(one: PackedBatch, other: PackedBatch) -> bool:
    tensors = ("input_ids", "labels", "doc_start")
    return all(torch.equal(one[name], other[name]) for name in tensors) and one["domain"] == other["domain"]


@pytest.fixture(scope="session")
def rows_of() -> Callable[[PackedBatch], list[tuple[int, ...]]]:
    return rows_of_batch


@pytest.fixture(scope="session")
def same_batch() -> Callable[[PackedBatch, PackedBatch], bool]:
    return are_same_batch


@pytest.fixture(scope="session")
def same_batches() -> Callable[[Iterable[PackedBatch], Iterable[PackedBatch]], bool]:
    """Whether two loops give the same batches, and as many."""

    def are_same(some: Iterable[PackedBatch], others: Iterable[PackedBatch]) -> bool:
        pairs = itertools.zip_longest(some, others)
        return all(
            one is not None and other is not None and are_same_batch(one, other) for one, other in pairs
        )

    return are_same


@pytest.fixture(scope="session")
def make_documents() -> Callable[..., list[np.ndarray]]:
    return random_documents


@pytest.fixture(scope="session")
def read_rows() -> Callable[..., np.ndarray]:
    return rows_by_pyarrow


@pytest.fixture(scope="session")
def pack() -> Callable[..., PackConfig]:
    return pack_small


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of about 375 rows in 6 shards; read it only."""
    folder = tmp_path_factory.mktemp("packed") / "data"
    pack_small(folder, random_documents(200))
    return folder


@pytest.fixture
def copied(packed: Path, tmp_path: Path) -> Path:
    """A copy of `packed` to damage."""
    shutil.copytree(packed, tmp_path / "data")
    return tmp_path / "data"

"""Synthetic token documents, packed data sets, and what pyarrow reads back from them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from yunmin_assets.columnar import PackConfig, pack_documents

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

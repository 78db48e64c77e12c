"""A small synthetic domain, what writes its shards, and a disk that takes no more."""

import contextlib
import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from yunmin_assets.columnar import DomainShards, PackConfig, write_domain_shards
from yunmin_assets.documents import DOCUMENT_SCHEMA

WORDS = "나라 말이 중국과 달라 문자와 서로 통하지 아니하므로 어리석은 백성이 말하고자 하는 바가 있어도"
CONFIG = PackConfig(
    seq_len=16, vocab_size=400, page_bytes=150, rows_per_row_group=32, shard_bytes=2500, seed=3
)


def make_documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Synthetic documents of up to 30 words."""
    random = np.random.default_rng(seed)
    return [
        {
            "id": f"d{number}",
            "text": " ".join(random.choice(WORDS.split(), random.integers(0, 30))),
            "source": "synthetic:words",
            "lang": "ko",
            "domain": "law",
            "license": None,
            "meta": None,
        }
        for number in range(count)
    ]


def write_source(path: Path, documents: list[dict[str, Any]], row_group: int = 10) -> None:
    """Write documents as an earlier stage does, with a column of its own."""
    table = pa.Table.from_pylist(documents, DOCUMENT_SCHEMA)
    table = table.append_column("perplexity", pa.array([1.0] * len(documents), pa.float64()))
    pq.write_table(table, path, row_group_size=row_group)


def write(
    home: Path, folder: Path, workspace: Path, config: PackConfig = CONFIG, **options: Any
) -> DomainShards:
    """Write the shards of the tokenizer, train.parquet and validation.parquet in `home`."""
    folder.mkdir(exist_ok=True)
    sources = {split: home / f"{split}.parquet" for split in ("train", "validation")}
    arguments = {"tokenizer_dir": home / "tokenizer", "domain": "law", **options}
    return write_domain_shards(sources, folder=folder, config=config, workspace=workspace, **arguments)


def with_gap_in_ids(source: Path, folder: Path) -> Path:
    """A copy of a tokenizer in which no token has the ids 290 to 299, so that it has ten more ids than tokens."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {token: id + 10 * (id >= 290) for token, id in vocabulary.items()}
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


@contextlib.contextmanager
def files_no_larger_than(limit: int) -> Iterator[None]:
    """Let the kernel refuse to write more, as on a full disk (there it is ENOSPC, here EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

"""Documents and models to score in the tests of pruning. The texts are synthetic."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.language_model.toy import TEMPLATES, save_toy_model, toy_texts
from yunmin_assets.documents import DOCUMENT_SCHEMA, write_documents
from yunmin_assets.pruning.halves import Half

ROW_GROUP = 7


def toy_documents(count: int, domain: str = "law") -> pa.Table:
    """Documents of one to nine sentences; every eleventh has no text."""
    sentences = toy_texts(domain, count + 10) if domain in TEMPLATES else toy_texts("food", count + 10)
    texts = [
        "" if number % 11 == 10 else " ".join(sentences[number : number + 1 + number % 9])
        for number in range(count)
    ]
    columns = {
        "id": [f"{domain}-{number}" for number in range(count)],
        "text": texts,
        "source": [None] * count,
        "lang": ["ko"] * count,
        "domain": [domain] * count,
        "license": [None] * count,
        "meta": [None] * count,
    }
    return pa.table(columns, schema=DOCUMENT_SCHEMA)


def write_small_row_groups(documents: pa.Table, path: Path) -> Path:
    """Row groups that do not fit together with anything else."""
    pq.write_table(documents, path, row_group_size=ROW_GROUP)
    return path


def write_toy_documents(documents: pa.Table, path: Path) -> Path:
    """As the pipeline writes them."""
    write_documents(documents, path)
    return path


def toy_models(folder: Path) -> dict[Half, Path]:
    """Two random models, one per half."""
    halves: tuple[Half, ...] = ("a", "b")
    return {half: save_toy_model(folder / half, "mamba2", seed) for seed, half in enumerate(halves)}

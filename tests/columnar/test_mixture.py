"""Packed batches of documents from several files: all of them or those that are chosen, and never others' rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.columnar.toy_domain import WORDS, make_documents, write_source
from yunmin_assets.columnar import PackConfig, PackManifest, TokenizerConfig, train_tokenizer
from yunmin_assets.columnar.loader import PackedDataset
from yunmin_assets.columnar.mixture import mixture_batches
from yunmin_assets.documents import DOCUMENT_SCHEMA

CONFIG = PackConfig(seq_len=16, vocab_size=400, page_bytes=150, seed=3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and the documents of two domains."""
    home = tmp_path_factory.mktemp("mixture")
    train_tokenizer(iter([WORDS] * 3), TokenizerConfig(vocab_size=400), home / "tokenizer")
    write_source(home / "law.parquet", make_documents(40))
    write_source(home / "tech.parquet", make_documents(30, seed=1))
    return home


def mix(home: Path, folder: Path, config: PackConfig = CONFIG, **options: object) -> PackedDataset:
    files = [home / "law.parquet", home / "tech.parquet"]
    arguments = {"tokenizer_dir": home / "tokenizer", "batch_size": 4, "seed": 0, **options}
    return mixture_batches(files, folder=folder, config=config, **arguments)  # type: ignore[arg-type]


def token_counts(home: Path, documents: list[dict[str, str]]) -> np.ndarray:
    """How often each id occurs in documents, the end-of-text token after each included."""
    encoder = Tokenizer.from_file(str(home / "tokenizer" / "tokenizer.json"))
    ids = [token for row in documents for token in [*encoder.encode(row["text"]).ids, 0]]
    return np.bincount(ids, minlength=400)


def packed_counts(folder: Path) -> np.ndarray:
    """The same of the rows that were packed: every token but the first is predicted once, and padding is id 0."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    rows = np.array([np.frombuffer(row, "<u2") for table in tables for row in table["tokens"].to_pylist()])
    return np.bincount(rows[:, :-1].ravel(), minlength=400)


@pytest.mark.parametrize("chosen", [None, "0246"])
def test_the_documents_of_all_files_that_belong_take_part(
    home: Path, tmp_path: Path, chosen: str | None
) -> None:
    documents = make_documents(40) + make_documents(30, seed=1)
    belongs = None if chosen is None else lambda identifier: identifier[-1] in chosen
    mix(home, tmp_path / "rows", belongs=belongs)
    expected = [row for row in documents if belongs is None or belongs(row["id"])]
    assert PackManifest.read(tmp_path / "rows").documents == len(expected)
    assert (packed_counts(tmp_path / "rows")[1:] == token_counts(home, expected)[1:]).all()


def test_batches_never_end(home: Path, tmp_path: Path) -> None:
    batches = mix(home, tmp_path / "rows")
    rows = PackManifest.read(tmp_path / "rows").rows
    taken = [batch for batch, _ in zip(batches, range(rows), strict=False)]
    assert len(taken) == rows  # batches of four, so four times as many rows as there are


def test_rows_that_a_killed_run_packed_are_used_again(home: Path, tmp_path: Path) -> None:
    mix(home, tmp_path / "rows")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    mix(home, tmp_path / "rows", seed=5)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()} == before


@pytest.mark.parametrize("option", ["seq_len", "vocab_size", "eos_id", "seed"])
def test_rows_of_another_layout_are_refused_by_name(home: Path, tmp_path: Path, option: str) -> None:
    mix(home, tmp_path / "rows")
    asked = getattr(CONFIG, option) + 1
    with pytest.raises(
        ValueError, match=rf"rows were packed with another {option} \(\d+, now {asked}\): remove"
    ):
        mix(home, tmp_path / "rows", CONFIG.model_copy(update={option: asked}))


def test_rows_of_another_tokenizer_are_refused(home: Path, tmp_path: Path) -> None:
    mix(home, tmp_path / "rows")
    train_tokenizer(iter(["다른 글"] * 9), TokenizerConfig(vocab_size=300), tmp_path / "other")
    with pytest.raises(ValueError, match=r"another tokenizer_hash \(\w+, now \w+\): remove the folder"):
        mix(home, tmp_path / "rows", tokenizer_dir=tmp_path / "other")


def test_when_no_document_takes_part_that_is_said(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no token in 0 documents"):
        mix(home, tmp_path / "rows", belongs=lambda _: False)


def test_a_document_without_text_is_named_by_file_and_id(home: Path, tmp_path: Path) -> None:
    rows = make_documents(40)
    rows[33]["text"] = None
    schema = pa.schema([pa.field(field.name, field.type) for field in DOCUMENT_SCHEMA])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "law.parquet", row_group_size=10)
    for name in ("tech.parquet", "tokenizer"):
        (tmp_path / name).symlink_to(home / name)
    with pytest.raises(
        ValueError, match=r"law.parquet, document 33 \(id 'd33'\): text is null; mend or remove"
    ):
        mix(tmp_path, tmp_path / "rows")

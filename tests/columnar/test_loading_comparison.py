"""Readers are compared on the same content, each in a process of its own; none can stop the others."""

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.columnar.toy_domain import CONFIG, make_documents, write, write_source
from yunmin_assets.columnar import PackManifest, TokenizerConfig, train_tokenizer
from yunmin_assets.columnar.document_shards import count_documents
from yunmin_assets.columnar.loading_comparison import LoadingComparison, compare_loading, describe_loading
from yunmin_assets.columnar.loading_readers import READERS, Measured, measure
from yunmin_assets.columnar.loading_sample import LARGEST_TOKENS, write_sample


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The products of two domains."""
    home = tmp_path_factory.mktemp("loading")
    train_tokenizer(
        iter([row["text"] for row in make_documents(30)]), TokenizerConfig(vocab_size=400), home / "tokenizer"
    )
    folders = {}
    for seed, domain in enumerate(("law", "tech")):
        write_source(home / "train.parquet", make_documents(200, seed))
        write_source(home / "validation.parquet", make_documents(10, seed))
        write(home, home / domain, home / "work" / domain, domain=domain)
        folders[domain] = home / domain
    return folders


@pytest.fixture(scope="module")
def sample(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    return folder, write_sample(shards, folder)


def stored_rows(folder):
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return Counter(
        (tuple(np.frombuffer(row["tokens"], "<u2").tolist()), tuple(row["doc_start"]))
        for table in tables
        for row in table.to_pylist()
    )


def test_the_sample_is_the_same_as_jsonl_and_as_parquet(shards, sample):
    folder, written = sample
    documents = [json.loads(line) for line in (folder / "documents.jsonl").open()]
    assert documents == pq.read_table(folder / "documents.parquet").drop_columns(["n_tokens"]).to_pylist()
    assert documents == [*make_documents(200, 0), *make_documents(200, 1)]
    rows = [tuple(json.loads(line)["tokens"]) for line in (folder / "rows.jsonl").open()]
    packed = stored_rows(folder / "packed")
    assert Counter(rows) == Counter(tokens for tokens, _ in packed.elements())
    assert packed == sum((stored_rows(path / "packed" / "train") for path in shards.values()), Counter())
    assert (written.documents, written.rows) == (400, len(rows))
    assert written.tokens == len(rows) * CONFIG.seq_len + 1
    assert PackManifest.read(folder / "packed").rows == len(rows)
    assert count_documents([folder / "documents.parquet"]).text_bytes == written.text_bytes


def test_a_large_domain_is_cut_to_its_share(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("yunmin_assets.columnar.loading_sample.LARGEST_TOKENS", 100)
    monkeypatch.setattr("yunmin_assets.columnar.loading_sample.LARGEST_TEXT_BYTES", 2000)
    monkeypatch.setattr("yunmin_assets.columnar.loading_sample.BATCH_ROWS", 3)
    monkeypatch.setattr("yunmin_assets.columnar.loading_sample.BATCH_DOCUMENTS", 7)
    written = write_sample(shards, tmp_path)
    per_domain = -(-50 // CONFIG.seq_len)
    assert written.rows == 2 * (per_domain + -per_domain % 3)
    assert 2000 <= written.text_bytes < 4000
    assert LARGEST_TOKENS >= 1_000_000


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_finds_what_is_in_the_sample(sample, reader):
    folder, _ = sample
    measured = measure(reader, folder)
    if reader.startswith("texts"):
        expected = sum(len(json.loads(line)["text"]) for line in (folder / "documents.jsonl").open())
    else:
        expected = sum(sum(json.loads(line)["tokens"][:-1]) for line in (folder / "rows.jsonl").open())
    assert measured.found == expected
    assert measured.cpu_seconds > 0 and 1 <= measured.passes <= 5


def test_readers_run_in_processes_of_their_own_and_a_failure_stops_none(shards):
    lines = []
    comparison = compare_loading(
        shards, lines.append, readers=("nobody", "texts_by_orjson", "texts_by_parquet")
    )
    assert comparison.failures == {"nobody": "KeyError: 'nobody'"}
    assert list(comparison.readers) == ["texts_by_orjson", "texts_by_parquet"]
    assert comparison.found_the_same
    assert comparison.speedup("texts_by_parquet", "texts_by_orjson") > 0
    assert lines[0] == "nobody failed: KeyError: 'nobody'"
    figures, page = describe_loading(comparison)
    assert figures["text_speedup_over_orjson"] > 0
    assert "rows_speedup_over_orjson" not in figures
    assert "| nobody | failed | KeyError: 'nobody' |" in page


def test_speed_and_memory_are_told_against_the_baseline():
    def one(seconds, memory, found=7):
        return Measured(cpu_seconds=seconds, passes=1, extra_memory_bytes=memory, found=found)

    readers = {
        "texts_by_json": one(5.0, 0),
        "texts_by_parquet": one(1.0, 9),
        "rows_by_orjson": one(6.0, 10, 8),
        "rows_by_orjson_shuffled": one(7.0, 1000, 8),
        "rows_by_packed_dataset": one(0.1, 100, 8),
    }
    comparison = LoadingComparison(documents=1, text_bytes=2, rows=3, tokens=4, readers=readers)
    assert comparison.found_the_same
    figures, page = describe_loading(comparison)
    assert figures["text_speedup_over_json"] == 5
    assert figures["rows_speedup_over_orjson"] == pytest.approx(60)
    assert (figures["rows_memory_bytes"], figures["shuffled_jsonl_memory_bytes"]) == (100, 1000)
    assert "data:image/png" in page
    changed = comparison.model_copy(update={"readers": {**readers, "rows_by_orjson": one(6.0, 10, 9)}})
    assert not changed.found_the_same


def test_domains_of_different_layouts_are_refused_by_name(shards, tmp_path):
    home = tmp_path
    train_tokenizer(iter(["가나다라"] * 9), TokenizerConfig(vocab_size=300), home / "tokenizer")
    write_source(home / "train.parquet", make_documents(20))
    write_source(home / "validation.parquet", make_documents(5))
    write(home, home / "news", home / "work", CONFIG.model_copy(update={"seq_len": 8}), domain="news")
    (home / "sample").mkdir()
    with pytest.raises(ValueError, match="news is packed in another layout than law"):
        write_sample({**shards, "news": home / "news"}, home / "sample")

"""Readers are compared on the same content, each in a process of its own; none can stop the others."""

import hashlib
import json
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from resources.lake import open_uri
from tests.columnar.toy_domain import CONFIG, make_documents, write, write_source
from yunmin_assets.columnar import PackManifest, TokenizerConfig, train_tokenizer
from yunmin_assets.columnar.document_shards import count_documents
from yunmin_assets.columnar.loading_comparison import LoadingComparison, compare_loading, describe_loading
from yunmin_assets.columnar.loading_readers import READERS, Measured, measure
from yunmin_assets.columnar.loading_sample import of_other_layout, write_sample

ONE_SHARD = CONFIG.model_copy(update={"shard_bytes": 10**6})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The products of two domains, a shard each."""
    home = tmp_path_factory.mktemp("loading")
    train_tokenizer(
        iter([row["text"] for row in make_documents(30)]), TokenizerConfig(vocab_size=400), home / "tokenizer"
    )
    folders = {}
    for seed, domain in enumerate(("law", "tech")):
        write_source(home / "train.parquet", make_documents(200, seed))
        write_source(home / "validation.parquet", make_documents(10, seed))
        write(home, home / domain, home / "work" / domain, ONE_SHARD, domain=domain)
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


@pytest.mark.parametrize("domains", [1, 2, 64])
def test_the_sample_stays_within_its_limits_however_many_domains_there_are(
    shards, tmp_path, monkeypatch, domains
):
    monkeypatch.setattr("yunmin_assets.columnar.loading_sample.LARGEST_TOKENS", 1600)
    monkeypatch.setattr("yunmin_assets.columnar.loading_sample.LARGEST_TEXT_BYTES", 12_800)
    monkeypatch.setattr("yunmin_assets.columnar.loading_sample.SAMPLE_BATCH_ROWS", 3)
    monkeypatch.setattr("yunmin_assets.columnar.loading_sample.SAMPLE_BATCH_DOCUMENTS", 7)
    written = write_sample({f"d{number}": shards["law"] for number in range(domains)}, tmp_path)
    assert written.rows == 100 // domains * domains
    longest = max(len(row["text"].encode()) for row in make_documents(200))
    assert 12_800 - domains <= written.text_bytes < 12_800 + domains * longest
    assert len((tmp_path / "rows.jsonl").read_bytes().splitlines()) == written.rows


def test_only_the_first_shards_are_read_also_from_s3(shards, sample, tmp_path, s3_endpoint):
    remote = {}
    for domain, folder in shards.items():
        remote[domain] = open_uri(f"s3://lake/loading/{domain}", s3_endpoint)
        for name in (
            "documents/shard-00000.parquet",
            "packed/train/shard-00000.parquet",
            "packed/train/manifest.json",
        ):
            remote[domain].fs.pipe_file((remote[domain] / name).path, (folder / name).read_bytes())
    assert write_sample(remote, tmp_path) == sample[1]
    for name in ("documents.jsonl", "rows.jsonl", "documents.parquet", "packed/shard-00000.parquet"):
        assert (tmp_path / name).read_bytes() == (sample[0] / name).read_bytes()


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_finds_what_is_in_the_sample(sample, reader):
    folder, _ = sample
    measured = measure(reader, folder)
    if reader.startswith("texts"):
        texts = [json.loads(line)["text"].encode() for line in (folder / "documents.jsonl").open()]
        lengths = hashlib.sha256(np.array([len(text) for text in texts], "<i8").tobytes())
        both = lengths.digest() + hashlib.sha256(b"".join(texts)).digest()
        expected = hashlib.sha256(both).hexdigest()
    else:
        rows = [json.loads(line)["tokens"][:-1] for line in (folder / "rows.jsonl").open()]
        hashes = [hashlib.sha256(np.array(row, "<i8").tobytes()).digest() for row in rows]
        expected = f"{sum(int.from_bytes(one, 'little') for one in hashes) % 2**256:064x}"
    assert measured.found == expected
    assert measured.cpu_seconds > 0 and 1 <= measured.passes <= 5


def test_readers_run_in_processes_of_their_own_and_a_failure_stops_none(shards):
    lines = []
    comparison = compare_loading(
        shards, lines.append, readers=("nobody", "texts_by_orjson", "texts_by_parquet")
    )
    assert comparison.failures == {"nobody": "KeyError: 'nobody'"}
    assert list(comparison.readers) == ["texts_by_orjson", "texts_by_parquet"]
    assert comparison.disagreements() == ["0 readers of rows came to an end, it takes 2"]
    assert comparison.speedup("texts_by_parquet", "texts_by_orjson") > 0
    assert lines[0] == "nobody failed: KeyError: 'nobody'"
    figures, page = describe_loading(comparison)
    assert figures["text_speedup_over_orjson"] > 0
    assert "rows_speedup_over_orjson" not in figures
    assert "| nobody | failed | KeyError: 'nobody' |" in page


def swap_two_texts(folder):
    lines = (folder / "documents.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "documents.jsonl").write_bytes(b"".join([*lines[1::-1], *lines[2:]]))


def swap_two_tokens(folder):
    first, *others = map(json.loads, (folder / "rows.jsonl").open())
    tokens = first["tokens"]
    place = next(place for place in range(CONFIG.seq_len - 1) if tokens[place] != tokens[place + 1])
    tokens[place : place + 2] = reversed(tokens[place : place + 2])
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [first, *others]))


@pytest.mark.parametrize(
    ("change", "readers", "kind"),
    [
        (swap_two_texts, ("texts_by_orjson", "texts_by_parquet"), "texts"),
        (swap_two_tokens, ("rows_by_orjson", "rows_by_packed_dataset"), "rows"),
    ],
)
def test_content_that_differs_in_order_only_is_told_apart(sample, tmp_path, change, readers, kind):
    shutil.copytree(sample[0], tmp_path / "sample")
    change(tmp_path / "sample")
    measured = {reader: measure(reader, tmp_path / "sample") for reader in readers}
    comparison = LoadingComparison(documents=1, text_bytes=1, rows=1, tokens=1, readers=measured)
    assert any(line.startswith(f"different {kind}: {readers[0]} ") for line in comparison.disagreements())


def test_when_no_reader_came_to_an_end_nothing_is_shown_to_be_the_same():
    comparison = LoadingComparison(
        documents=1, text_bytes=1, rows=1, tokens=1, readers={}, failures={"x": "y"}
    )
    assert len(comparison.disagreements()) == 2


def test_speed_and_memory_are_told_against_the_baseline():
    def one(seconds, memory, found="7"):
        return Measured(cpu_seconds=seconds, passes=1, extra_memory_bytes=memory, found=found)

    readers = {
        "texts_by_json": one(5.0, 0),
        "texts_by_parquet": one(1.0, 9),
        "rows_by_orjson": one(6.0, 10, "8"),
        "rows_by_orjson_shuffled": one(7.0, 1000, "8"),
        "rows_by_packed_dataset": one(0.1, 100, "8"),
    }
    comparison = LoadingComparison(documents=1, text_bytes=2, rows=3, tokens=4, readers=readers)
    assert comparison.disagreements() == []
    figures, page = describe_loading(comparison)
    assert figures["text_speedup_over_json"] == 5
    assert figures["rows_speedup_over_orjson"] == pytest.approx(60)
    assert (figures["rows_memory_bytes"], figures["shuffled_jsonl_memory_bytes"]) == (100, 1000)
    assert "data:image/png" in page
    changed = comparison.model_copy(update={"readers": {**readers, "rows_by_orjson": one(6.0, 10, "9")}})
    assert changed.disagreements() == [
        "different rows: rows_by_orjson 9, rows_by_orjson_shuffled 8, rows_by_packed_dataset 8"
    ]


def test_domains_of_different_layouts_are_refused_by_name(shards, tmp_path):
    home = tmp_path
    train_tokenizer(iter(["가나다라"] * 9), TokenizerConfig(vocab_size=300), home / "tokenizer")
    write_source(home / "train.parquet", make_documents(20))
    write_source(home / "validation.parquet", make_documents(5))
    write(home, home / "news", home / "work", CONFIG.model_copy(update={"seq_len": 8}), domain="news")
    (home / "sample").mkdir()
    folders = {"news": home / "news", **shards}
    assert of_other_layout(folders) == ["news"]
    with pytest.raises(ValueError, match="news: packed in another layout than the other domains"):
        write_sample(folders, home / "sample")

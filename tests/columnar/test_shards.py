"""A domain's two products: equal to an oracle in plain Python, and the same bytes after any number of kills."""

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.columnar.toy_domain import CONFIG, WORDS, files_no_larger_than, make_documents, write, write_source
from yunmin_assets.columnar import TokenizerConfig, train_tokenizer
from yunmin_assets.columnar.shards import row_group_runs
from yunmin_assets.columnar.shuffling import KEY_BYTES, WRITE_SHUFFLE, permutation
from yunmin_assets.documents import DOCUMENT_SCHEMA
from yunmin_assets.progress import Progress


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tokenizer and the documents of a domain."""
    home = tmp_path_factory.mktemp("domain")
    train_tokenizer(iter([WORDS] * 3), TokenizerConfig(vocab_size=400), home / "tokenizer")
    write_source(home / "train.parquet", make_documents(300))
    write_source(home / "validation.parquet", make_documents(20, seed=1))
    return home


@pytest.fixture(scope="module")
def undisturbed(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder / "out", write(home, folder / "out", folder / "work")


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def expected_rows(home, split, documents):
    """What packing should give: rows as plain dictionaries, in the stored order."""
    encoder = Tokenizer.from_file(str(home / "tokenizer" / "tokenizer.json"))
    stream, starts, length = [], set(), CONFIG.seq_len
    for document in documents:
        starts.add(len(stream))
        stream += [*encoder.encode(document["text"]).ids, 0]
    begins = range(0, len(stream) - 1, length)
    stream += [0] * length
    rows = [
        {
            "tokens": np.array(stream[begin : begin + length + 1], "<u2").tobytes(),
            "doc_start": [place - begin for place in range(begin, begin + length) if place in starts],
            "domain": "law",
        }
        for begin in begins
    ]
    return [rows[row] for row in permutation(len(rows), CONFIG.seed, (WRITE_SHUFFLE,))]


def read_all(folder):
    """Every row of the Parquet files of a folder as dictionaries, by pyarrow."""
    tables = [
        pq.read_table(path, page_checksum_verification=True) for path in sorted(folder.glob("*.parquet"))
    ]
    return pa.concat_tables(tables).to_pylist()


@pytest.mark.parametrize(("split", "documents"), [("train", (300, 0)), ("validation", (20, 1))])
def test_pyarrow_reads_the_packed_rows_that_plain_python_packs(home, undisturbed, split, documents):
    out, written = undisturbed
    found = read_all(out / "packed" / split)
    assert found == expected_rows(home, split, make_documents(*documents))
    assert written.packed[split].rows == len(found)


def test_pyarrow_reads_the_documents_that_went_in_with_their_token_counts(home, undisturbed):
    out, written = undisturbed
    encoder = Tokenizer.from_file(str(home / "tokenizer" / "tokenizer.json"))
    documents = make_documents(300)
    expected = [{**row, "n_tokens": len(encoder.encode(row["text"]).ids)} for row in documents]
    assert read_all(out / "documents") == expected
    assert written.document_shards == len([*(out / "documents").iterdir()]) > 5
    assert written.documents.tokens == sum(row["n_tokens"] for row in expected)
    assert written.documents.jsonl_bytes == sum(len(orjson.dumps(row)) + 1 for row in documents)
    assert sum(written.document_lengths.values()) == 300
    assert written.every_token_packed


@pytest.fixture
def before_the_shuffle(home, tmp_path):
    """A workspace in which all rows are scattered and none is packed, and one of its files of rows."""
    write(home, tmp_path / "first", tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / "train" / "packed")
    return tmp_path / "work", sorted((tmp_path / "work/train/pieces/00001").iterdir())[0]


def swap_two_tokens(data):
    data[KEY_BYTES : KEY_BYTES + 4] = [*data[KEY_BYTES + 2 : KEY_BYTES + 4], *data[KEY_BYTES : KEY_BYTES + 2]]


def change_a_document_start(data):
    data[KEY_BYTES + 2 * (CONFIG.seq_len + 1)] ^= 0xFF


@pytest.mark.parametrize("damage", [swap_two_tokens, change_a_document_start])
def test_rows_that_change_on_the_way_are_noticed_and_made_anew_by_the_next_run(
    home, undisturbed, before_the_shuffle, tmp_path, damage
):
    workspace, bucket = before_the_shuffle
    data = bytearray(bucket.read_bytes())
    damage(data)
    bucket.write_bytes(data)
    written = write(home, tmp_path / "second", workspace)
    assert written.damage == ("train",) and not written.every_token_packed
    assert write(home, tmp_path / "third", workspace).every_token_packed
    assert files(tmp_path / "third") == files(undisturbed[0])


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [os.unlink, cut_short])
def test_rows_that_get_lost_on_the_way_stop_the_run_and_the_next_makes_them_anew(
    home, undisturbed, before_the_shuffle, tmp_path, damage
):
    workspace, bucket = before_the_shuffle
    damage(bucket)
    with pytest.raises(RuntimeError, match=r"work/train was damaged and is removed, so run it again: .*rows"):
        write(home, tmp_path / "second", workspace)
    write(home, tmp_path / "third", workspace)
    assert files(tmp_path / "third") == files(undisturbed[0])


def test_a_finished_shard_that_was_damaged_in_the_workspace_is_made_anew(home, undisturbed, tmp_path):
    write(home, tmp_path / "first", tmp_path / "work")
    shutil.rmtree(tmp_path / "first")
    shard = tmp_path / "work/train/packed/shard-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(RuntimeError, match=r"work/train was damaged and is removed, so run it again"):
        write(home, tmp_path / "second", tmp_path / "work")
    write(home, tmp_path / "third", tmp_path / "work")
    assert files(tmp_path / "third") == files(undisturbed[0])


def test_a_folder_that_holds_something_is_refused_and_no_other_workspace_is_changed(
    home, undisturbed, tmp_path
):
    write(home, tmp_path / "out", tmp_path / "work")
    smaller = tmp_path / "smaller"
    smaller.mkdir()
    for name in ("validation.parquet", "tokenizer"):
        (smaller / name).symlink_to(home / name)
    write_source(smaller / "train.parquet", make_documents(60))
    for source, workspace in ((home, "work"), (smaller, "other work")):
        with pytest.raises(FileExistsError, match="out already holds something: remove it, or write into a"):
            write(source, tmp_path / "out", tmp_path / workspace)
    assert files(tmp_path / "out") == files(undisturbed[0])


def test_files_are_copied_where_there_are_no_hard_links(home, undisturbed, tmp_path, monkeypatch):
    def no_link(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    assert write(home, tmp_path / "out", tmp_path / "work").every_token_packed
    assert files(tmp_path / "out") == files(undisturbed[0])


def test_files_that_cannot_be_placed_for_another_reason_are_not_copied(home, tmp_path, monkeypatch):
    def no_link(source, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(OSError, match="Input/output error"):
        write(home, tmp_path / "out", tmp_path / "work")
    assert files(tmp_path / "out") == {}


def test_the_bytes_do_not_depend_on_the_memory_of_the_shuffle(home, undisturbed, tmp_path):
    little = CONFIG.model_copy(update={"shuffle_memory_mb": 1e-4})
    write(home, tmp_path / "out", tmp_path / "work", little)
    assert files(tmp_path / "out") == files(undisturbed[0])


KILLED_PROGRAM = """
import sys
from pathlib import Path
from yunmin_assets.columnar import PackConfig, write_domain_shards
home, out, workspace = map(Path, sys.argv[1:4])
out.mkdir(exist_ok=True)
sources = {split: home / f"{split}.parquet" for split in ("train", "validation")}
config = PackConfig.model_validate_json(sys.argv[4])
write_domain_shards(sources, home / "tokenizer", out, config, domain="law", workspace=workspace)
"""


def run_until(home, out, workspace, place):
    """Write in a process of its own, and kill it as soon as `place` is there."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [str(home), str(out), str(workspace), CONFIG.model_dump_json()]
    process = subprocess.Popen([sys.executable, "-c", KILLED_PROGRAM, *arguments], env=environment)
    while process.poll() is None and not place.exists():
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, f"the process ended before {place} was there"


def finished_pieces(workspace):
    """Pieces and shards that need not be written again, and when each was written."""
    places = [*workspace.glob("*/pieces/?????/stream.json"), *workspace.glob("*/packed/*.parquet")]
    return {place: place.stat().st_mtime_ns for place in places}


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes_and_redoes_nothing(
    home, undisturbed, tmp_path
):
    out, workspace = tmp_path / "out", tmp_path / "work"
    kept = {}
    for place in ("train/pieces/00002", "train/pieces/00005.part", "train/packed/shard-00003.parquet"):
        run_until(home, tmp_path / "killed", workspace, workspace / place)
        now = finished_pieces(workspace)
        assert kept.items() <= now.items() and len(now) > len(kept)
        kept = now
    write(home, out, workspace)
    assert kept.items() <= finished_pieces(workspace).items()
    assert files(out) == files(undisturbed[0])


def test_writing_again_into_a_finished_workspace_only_places_the_files(home, undisturbed, tmp_path):
    write(home, tmp_path / "first", tmp_path / "work")
    kept = finished_pieces(tmp_path / "work")
    write(home, tmp_path / "second", tmp_path / "work")
    assert finished_pieces(tmp_path / "work") == kept
    assert files(tmp_path / "second") == files(undisturbed[0])


def test_a_full_disk_is_explained_and_the_work_goes_on_afterwards(home, undisturbed, tmp_path):
    with files_no_larger_than(4000), pytest.raises(OSError, match="took no more bytes"):
        write(home, tmp_path / "out", tmp_path / "work")
    assert files(tmp_path / "out") == {}
    write(home, tmp_path / "out", tmp_path / "work")
    assert files(tmp_path / "out") == files(undisturbed[0])


def test_a_workspace_that_was_begun_for_something_else_is_refused(home, tmp_path):
    workspace = tmp_path / "work"
    write(home, tmp_path / "out", workspace)
    other = tmp_path / "other tokenizer"
    train_tokenizer(iter(["다른 글"] * 9), TokenizerConfig(vocab_size=300), other)
    with pytest.raises(ValueError, match=r"work was begun with another tokenizer \(\w+, now \w+\): remove"):
        write(home, tmp_path / "other", workspace, tokenizer_dir=other)
    with pytest.raises(ValueError, match="begun with another layout"):
        write(home, tmp_path / "other", workspace, CONFIG.model_copy(update={"seq_len": 8}))
    with pytest.raises(ValueError, match="begun with another domain"):
        write(home, tmp_path / "other", workspace, domain="tech")


@pytest.mark.parametrize("content", [b"", b'{"domain": "la', b"null", b"\xff"])
def test_a_workspace_whose_plan_was_lost_with_the_power_is_begun_anew(home, undisturbed, tmp_path, content):
    write(home, tmp_path / "first", tmp_path / "work")
    kept = finished_pieces(tmp_path / "work")
    (tmp_path / "work" / "plan.json").write_bytes(content)
    write(home, tmp_path / "second", tmp_path / "work")
    assert files(tmp_path / "second") == files(undisturbed[0])
    assert not kept.items() & finished_pieces(tmp_path / "work").items()
    write(home, tmp_path / "third", tmp_path / "work")


def test_a_workspace_in_which_another_process_works_is_refused(home, tmp_path):
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match=r"another process holds .*work/lock: wait"):
            write(home, tmp_path / "out", tmp_path / "work")
    write(home, tmp_path / "out", tmp_path / "work")


def test_documents_that_changed_since_are_refused_even_at_the_same_size(home, tmp_path):
    for name in ("validation.parquet", "tokenizer"):
        (tmp_path / name).symlink_to(home / name)
    sizes = []
    for word in ("나라", "백성"):
        write_source(tmp_path / "train.parquet", [{**row, "text": word * 9} for row in make_documents(50)])
        sizes.append((tmp_path / "train.parquet").stat().st_size)
        if word == "나라":
            write(tmp_path, tmp_path / "out", tmp_path / "work")
    assert sizes[0] == sizes[1]
    with pytest.raises(ValueError, match=r"begun with another documents .*'train': '\w+'.*: remove it, or"):
        write(tmp_path, tmp_path / "other", tmp_path / "work")


def test_a_tokenizer_with_more_ids_than_the_layout_is_refused_with_the_place(home, tmp_path):
    with pytest.raises(ValueError, match=r"document \d+, token \d+: id \d+ is outside the vocabulary 0…269"):
        write(home, tmp_path / "out", tmp_path / "work", CONFIG.model_copy(update={"vocab_size": 270}))


@pytest.mark.parametrize(
    ("split", "column", "value", "reason"),
    [
        ("train", "text", None, "text is null"),
        ("train", "text", b"abc \xff\xfe", "text is not UTF-8 at byte 4"),
        ("train", "id", None, "id is null"),
        ("validation", "text", None, "text is null"),
        ("validation", "text", b"abc \xff\xfe", "text is not UTF-8 at byte 4"),
    ],
)
def test_a_document_that_cannot_be_used_is_named_by_file_and_row(
    home, tmp_path, split, column, value, reason
):
    other = {"train": "validation", "validation": "train"}[split]
    for name in (f"{other}.parquet", "tokenizer"):
        (tmp_path / name).symlink_to(home / name)
    table = pa.Table.from_pylist(make_documents(300), DOCUMENT_SCHEMA)
    values = [text.encode() for text in table[column].to_pylist()]
    values[250] = value
    nullable = pa.array(values, pa.large_binary()).view(pa.large_string())
    table = table.set_column(table.schema.get_field_index(column), column, nullable)
    pq.write_table(table, tmp_path / f"{split}.parquet", row_group_size=10)
    with pytest.raises(
        ValueError, match=rf"/{split}.parquet, document 250( \(id 'd250'\))?: {reason}; mend or"
    ):
        write(tmp_path, tmp_path / "out", tmp_path / "work")


@pytest.mark.parametrize("documents", [[], [{**make_documents(1)[0], "text": ""}]])
def test_a_split_without_a_token_is_refused_by_name(home, tmp_path, documents):
    for name in ("train.parquet", "tokenizer"):
        (tmp_path / name).symlink_to(home / name)
    write_source(tmp_path / "validation.parquet", documents)
    with pytest.raises(ValueError, match=f"no token in {len(documents)} documents.*validation rows of law"):
        write(tmp_path, tmp_path / "out", tmp_path / "work")


def test_progress_tells_documents_tokens_per_second_and_time_left(home, tmp_path, monkeypatch):
    monkeypatch.setitem(Progress.__init__.__kwdefaults__, "every", 0.0)
    lines = []
    written = write(home, tmp_path / "out", tmp_path / "work", log=lines.append)
    first, *_ = lines
    assert re.fullmatch(r"\d+ of 300 train documents, [\d,]+/s, \d+ s left, [\d,]+ tokens/s", first)
    rows = written.packed["train"].rows
    assert any(line.startswith(f"{rows} of {rows} rows written") for line in lines)


def test_pieces_are_runs_of_row_groups_with_about_the_same_text(home):
    runs = row_group_runs(home / "train.parquet", CONFIG.shard_bytes)
    assert [group for run in runs for group in run] == list(range(30))
    assert len(runs) > 5 and all(runs)
    assert row_group_runs(home / "train.parquet", 10**9) == [list(range(30))]

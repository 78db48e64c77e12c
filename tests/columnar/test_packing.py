import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from tests.columnar.toy_domain import files_no_larger_than
from yunmin_assets.columnar import PackConfig, PackManifest, pack_documents
from yunmin_assets.columnar.rows import RowCutter
from yunmin_assets.columnar.shard_writer import ShardWriter
from yunmin_assets.columnar.shuffling import WRITE_SHUFFLE, permutation


def expected_rows(documents, seq_len):
    """What packing should give, in stream order, in plain Python: (tokens, document starts) of each row."""
    stream, starts = [], set()
    for document in documents:
        starts.add(len(stream))
        stream += [*map(int, document), 0]
    rows = []
    for begin in range(0, len(stream) - 1, seq_len):
        row = stream[begin : begin + seq_len + 1]
        row += [0] * (seq_len + 1 - len(row))
        rows.append(
            (tuple(row), tuple(place - begin for place in range(begin, begin + seq_len) if place in starts))
        )
    return rows


def stored_rows(folder, dtype="<u2"):
    rows = []
    for path in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(path, page_checksum_verification=True).to_pylist():
            rows.append((tuple(np.frombuffer(row["tokens"], dtype).tolist()), tuple(row["doc_start"])))
    return rows


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(
    documents=st.lists(st.lists(st.integers(1, 299), max_size=40), min_size=1, max_size=40).filter(any),
    seq_len=st.integers(1, 20),
    seed=st.integers(0, 100),
    compression=st.sampled_from(["zstd", "none"]),
)
@settings(max_examples=40, deadline=None)
def test_what_pyarrow_reads_is_what_was_packed(documents, seq_len, seed, compression):
    config = PackConfig(
        seq_len=seq_len,
        vocab_size=300,
        seed=seed,
        compression=compression,
        page_bytes=64,
        rows_per_row_group=8,
        shard_bytes=500,
    )
    with tempfile.TemporaryDirectory() as folder:
        manifest = pack_documents(documents, Path(folder) / "out", config)
        stored = stored_rows(Path(folder) / "out")
    assert Counter(stored) == Counter(expected_rows(documents, seq_len))
    assert manifest.tokens + manifest.padding_tokens == manifest.rows * seq_len + 1


def test_the_rows_are_stored_in_the_order_that_the_seed_gives(packed, make_documents):
    in_order = expected_rows(make_documents(200), 16)
    order = permutation(len(in_order), 0, (WRITE_SHUFFLE,))
    assert stored_rows(packed) == [in_order[row] for row in order]
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.15


def test_equal_input_and_configuration_give_equal_bytes(pack, make_documents, tmp_path):
    documents = make_documents(100)
    for name in ("one", "two"):
        pack(tmp_path / name, documents)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_another_seed_gives_the_same_rows_in_another_order(pack, make_documents, tmp_path):
    for seed in (0, 1):
        pack(tmp_path / str(seed), make_documents(100), seed=seed)
    first, second = stored_rows(tmp_path / "0"), stored_rows(tmp_path / "1")
    assert first != second
    assert Counter(first) == Counter(second)


def test_the_bytes_do_not_depend_on_the_memory_of_the_shuffle(pack, make_documents, tmp_path):
    for name, memory in (("little", 1e-4), ("some", 2e-3), ("much", 100)):
        pack(tmp_path / name, make_documents(300), shuffle_memory_mb=memory)
    assert files(tmp_path / "little") == files(tmp_path / "some") == files(tmp_path / "much")


MEMORY_PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from yunmin_assets.columnar import PackConfig, pack_documents

def documents(tokens):
    random = np.random.default_rng(0)
    for _ in range(tokens // 1000):
        yield random.integers(1, 60_000, 1000)

def peak_megabytes(tokens, name):
    Path("/proc/self/clear_refs").write_text("5")
    config = PackConfig(seq_len=512, compression="none", shuffle_memory_mb=8, shard_bytes=10_000_000)
    pack_documents(documents(tokens), Path(sys.argv[1]) / name, config)
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(status.split()[0]) / 1024

peak_megabytes(4_000_000, "first")  # imports, and whatever is kept
print(peak_megabytes(4_000_000, "small"), peak_megabytes(32_000_000, "large"))
"""


def test_memory_does_not_grow_with_the_data(tmp_path):
    command = [sys.executable, "-c", MEMORY_PROGRAM, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    small, large = map(float, done.stdout.split())
    assert large - small < 16  # the rows take 64 MB


def test_packing_to_s3_gives_the_files_of_a_local_folder(s3_endpoint, pack, make_documents, tmp_path):
    out = UPath("s3://lake/packed", client_kwargs={"endpoint_url": s3_endpoint}, use_listings_cache=False)
    config = pack(tmp_path / "local", make_documents(150))
    manifest = pack_documents(make_documents(150), out, config, domain="novels")
    assert len(manifest.files) > 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files(tmp_path / "local")
    with pytest.raises(FileExistsError, match="s3://lake/packed already holds something"):
        pack_documents(make_documents(3), out, config)


def test_an_upload_that_broke_off_leaves_no_manifest_and_may_be_repeated(
    s3_endpoint, pack, make_documents, tmp_path
):
    out = UPath("s3://lake/broken", client_kwargs={"endpoint_url": s3_endpoint}, use_listings_cache=False)
    config = pack(tmp_path / "local", make_documents(150))
    (out / "shard-00001.parquet").write_bytes(b"half")  # what a killed upload leaves
    (out / "unfinished").write_bytes(b"")
    with pytest.raises(ValueError, match="document 1, token 0"):
        pack_documents([[1], [700]], out, config)
    assert not (out / "manifest.json").exists()
    pack_documents(make_documents(150), out, config, domain="novels")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files(tmp_path / "local")


@pytest.mark.parametrize("largest_file", [1000, 4000, 40_000])
def test_a_full_disk_is_explained_and_nothing_is_left_behind(tmp_path, make_documents, largest_file):
    documents = make_documents(5000, vocab_size=60_000)  # 300 KB of tokens
    config = PackConfig(seq_len=16, rows_per_row_group=256)
    with files_no_larger_than(largest_file), pytest.raises(OSError, match=r"took no more bytes.*make room"):
        pack_documents(documents, tmp_path / "out", config)
    assert list(tmp_path.iterdir()) == []


def test_the_footer_of_every_shard_says_what_its_bytes_are(tmp_path):
    config = PackConfig(seq_len=3, vocab_size=300, eos_id=2, seed=5)
    pack_documents([[1, 5]], tmp_path / "out", config, domain="law", tokenizer_hash="17c0")
    footer = pq.read_metadata(tmp_path / "out" / "shard-00000.parquet").metadata
    assert {name.decode(): value.decode() for name, value in footer.items()} == {
        "yunmin.format": "yunmin-packed-1",
        "yunmin.dtype": "uint16",
        "yunmin.seq_len": "3",
        "yunmin.vocab_size": "300",
        "yunmin.eos_id": "2",
        "yunmin.seed": "5",
        "yunmin.tokenizer_hash": "17c0",
        "yunmin.domain": "law",
    }


def test_very_long_rows_make_row_groups_of_fewer_rows(tmp_path):
    config = PackConfig(seq_len=2**20, page_bytes=2**22, compression="none")
    pack_documents([np.ones(40 * 2**20, np.uint16)], tmp_path / "out", config)
    metadata = pq.read_metadata(tmp_path / "out" / "shard-00000.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [31, 9]


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_the_tokens_column_is_plain_fixed_length_bytes(pack, make_documents, tmp_path, compression):
    pack(tmp_path / "out", make_documents(50), compression=compression)
    metadata = pq.read_metadata(tmp_path / "out" / "shard-00000.parquet")
    column = metadata.schema.column(0)
    assert (column.name, column.physical_type, column.length) == ("tokens", "FIXED_LEN_BYTE_ARRAY", 2 * 17)
    assert (column.max_definition_level, column.max_repetition_level) == (0, 0)
    chunk = metadata.row_group(0).column(0)
    assert chunk.compression == {"zstd": "ZSTD", "none": "UNCOMPRESSED"}[compression]
    assert "PLAIN" in chunk.encodings and not chunk.has_dictionary_page
    assert not chunk.is_stats_set and chunk.has_offset_index


def test_every_row_names_its_domain(packed):
    for path in packed.glob("*.parquet"):
        assert set(pq.read_table(path)["domain"].to_pylist()) == {"novels"}


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path):
    config = PackConfig(seq_len=3, vocab_size=100_000)
    manifest = pack_documents([[99_999, 1, 70_000]], tmp_path / "out", config)
    assert manifest.dtype == "uint32"
    assert stored_rows(tmp_path / "out", "<u4") == [((99_999, 1, 70_000, 0), (0,))]


def test_the_manifest_counts_everything(packed, make_documents):
    documents = make_documents(200)
    manifest = PackManifest.read(packed)
    assert manifest.documents == 200
    assert manifest.tokens == sum(map(len, documents)) + 200
    assert manifest.rows == len(expected_rows(documents, 16))
    assert manifest.padding_tokens == manifest.rows * 16 + 1 - manifest.tokens
    assert manifest.domains == {"novels": manifest.rows}
    assert (manifest.seq_len, manifest.eos_id, manifest.seed, manifest.dtype) == (16, 0, 0, "uint16")


def test_the_manifest_lists_every_file_with_its_hash(packed):
    entries = json.loads((packed / "manifest.json").read_text())["files"]
    assert [entry["name"] for entry in entries] == sorted(path.name for path in packed.glob("*.parquet"))
    for entry in entries:
        data = (packed / entry["name"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert entry["rows"] == pq.read_metadata(packed / entry["name"]).num_rows


def test_shards_are_closed_when_they_are_full(packed):
    rows = [entry.rows for entry in PackManifest.read(packed).files]
    assert len(rows) > 3
    assert set(rows[:-1]) == {64}  # two row groups of 32 rows, 34 bytes each, pass 2000 bytes
    assert 0 < rows[-1] <= 64


def test_a_shard_that_was_finished_is_not_read_again(tmp_path, make_documents):
    config = PackConfig(seq_len=16, vocab_size=500, page_bytes=150, rows_per_row_group=32, shard_bytes=2000)
    records = list(RowCutter(config).blocks(make_documents(100)))
    writer = ShardWriter(tmp_path, config)
    written = list(writer.write(records))
    assert len(written) > 2
    path = tmp_path / "shard-00001.parquet"
    path.write_bytes(bytes(path.stat().st_size))  # pyarrow could not read it
    assert writer.finished() == written
    path.write_bytes((tmp_path / "shard-00000.parquet").read_bytes())  # of another size: it has to be read
    found = writer.finished()
    assert found[1].sha256 == found[0].sha256 == written[0].sha256


def test_shards_in_a_manifest_are_not_read_again_either(copied, packed):
    manifest = PackManifest.read(packed)
    for entry in manifest.files:
        (copied / entry.name).write_bytes(bytes(entry.bytes))
    assert tuple(ShardWriter(copied, PackConfig()).finished()) == manifest.files


@pytest.mark.parametrize("documents", [[], [[]], [[], []]])
def test_nothing_to_pack_is_refused(documents, tmp_path):
    with pytest.raises(ValueError, match=f"no token in {len(documents)} documents"):
        pack_documents(documents, tmp_path / "out", PackConfig())
    assert list(tmp_path.iterdir()) == []


def test_a_bad_document_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="document 1, token 0"):
        pack_documents([[1], [700]], tmp_path / "out", PackConfig(vocab_size=500))
    assert list(tmp_path.iterdir()) == []


def test_what_is_already_there_is_not_overwritten(pack, make_documents, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="already holds something"):
        pack(tmp_path / "out", make_documents(5))


def test_an_empty_folder_and_the_rest_of_a_killed_run_are_replaced(pack, make_documents, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out.part" / "shuffle").mkdir(parents=True)
    (tmp_path / "out.part" / "shard-00099.parquet").write_text("half")
    pack(tmp_path / "out", make_documents(5))
    assert sorted(files(tmp_path / "out")) == [
        "manifest.json",
        "shard-00000.index.safetensors",
        "shard-00000.parquet",
    ]
    assert not (tmp_path / "out.part").exists()


def test_packing_reports_its_progress(tmp_path, make_documents):
    lines = []
    pack_documents(make_documents(10), tmp_path / "out", PackConfig(vocab_size=500), log=lines.append)
    assert any(line.startswith("10 documents") for line in lines)

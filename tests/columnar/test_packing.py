import hashlib
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yunmin_assets.columnar import PackConfig, PackManifest, pack_documents, verify_packed


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


def test_the_rows_are_shuffled(packed, make_documents):
    stored, in_order = stored_rows(packed), expected_rows(make_documents(200), 16)
    assert stored != in_order
    ranks = {row: place for place, row in enumerate(in_order)}
    places = [ranks[row] for row in stored]
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.15


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


def test_a_shuffle_larger_than_its_memory_loses_nothing(pack, make_documents, tmp_path):
    pack(tmp_path / "out", make_documents(300), shuffle_memory_bytes=100)
    assert Counter(stored_rows(tmp_path / "out")) == Counter(expected_rows(make_documents(300), 16))


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


def test_verifying_reads_all_bytes(packed, pack, make_documents, tmp_path):
    assert verify_packed(packed) == PackManifest.read(packed)
    pack(tmp_path / "out", make_documents(20))
    path = tmp_path / "out" / "shard-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-00000\.parquet: the file's SHA-256"):
        verify_packed(tmp_path / "out")


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
    assert sorted(files(tmp_path / "out")) == ["manifest.json", "shard-00000.parquet"]
    assert not (tmp_path / "out.part").exists()


def test_packing_reports_its_progress(tmp_path, make_documents):
    lines = []
    pack_documents(make_documents(10), tmp_path / "out", PackConfig(vocab_size=500), log=lines.append)
    assert any(line.startswith("10 documents") for line in lines)

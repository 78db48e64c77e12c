"""What is not as it was packed is found: bytes, files, rows, their content, and the place of the padding."""

import numpy as np
import pytest

from yunmin_assets.columnar import PackConfig, PackManifest, verify_packed
from yunmin_assets.columnar.packing import shuffled_rows, write_shards
from yunmin_assets.columnar.rows import RowCutter, RowLayout
from yunmin_assets.columnar.shard_writer import ShardWriter
from yunmin_assets.columnar.shuffling import KEY_BYTES, scatter
from yunmin_assets.columnar.verification import stored_record_hash

CONFIG = PackConfig(
    seq_len=16, vocab_size=500, page_bytes=150, rows_per_row_group=32, shard_bytes=2000, compression="none"
)
LAYOUT = RowLayout.of(CONFIG)


@pytest.fixture
def scattered(tmp_path, make_documents):
    """Counts of rows that lie in the buckets of the shuffle, and the folder of the buckets."""
    cutter = RowCutter(CONFIG)
    scatter(cutter.blocks(make_documents(100)), tmp_path / "shuffle", seed=CONFIG.seed)
    return cutter.counts, tmp_path / "shuffle"


def write(counts, buckets):
    folder = buckets.with_name("out")
    folder.mkdir()
    manifest = write_shards(shuffled_rows([buckets], CONFIG), counts, ShardWriter(folder, CONFIG))
    return folder, manifest


def change_first_record(buckets, change):
    path = min(buckets.iterdir())
    data = np.fromfile(path, np.uint8)
    record = data[KEY_BYTES : KEY_BYTES + LAYOUT.record_bytes]
    tokens = record[: LAYOUT.token_bytes].view(LAYOUT.token_type)
    before = data.copy()
    change(tokens, record)
    assert not np.array_equal(data, before)
    data.tofile(path)


def exchange_tokens(tokens, _record):
    tokens[[3, 9]] = tokens[[9, 3]]


def change_last_label(tokens, _record):
    tokens[-1] ^= 1


def flip_document_start(_tokens, record):
    record[-1] ^= 1


def test_rows_that_are_stored_as_they_were_cut_have_the_same_hash(scattered):
    counts, buckets = scattered
    assert stored_record_hash(*write(counts, buckets)) == counts.record_hash != 0


@pytest.mark.parametrize("change", [exchange_tokens, change_last_label, flip_document_start])
def test_rows_that_change_on_the_way_have_another_hash(scattered, change):
    counts, buckets = scattered
    change_first_record(buckets, change)
    assert stored_record_hash(*write(counts, buckets)) != counts.record_hash


def test_rows_that_get_lost_in_the_shuffle_leave_no_manifest(scattered):
    counts, buckets = scattered
    path = max(buckets.iterdir())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RuntimeError, match=rf"{counts.rows} rows were cut, but {counts.rows - 1} are in"):
        write(counts, buckets)
    assert not (buckets.with_name("out") / "manifest.json").exists()


def test_the_manifest_says_which_row_is_padded(packed, read_rows):
    manifest = verify_packed(packed)
    padding = manifest.padding_tokens
    assert padding > 0
    assert (read_rows(packed)[manifest.padded_row][-padding - 1 :] == 0).all()


def test_without_padding_no_row_is_padded(tmp_path, pack):
    pack(tmp_path / "data", [np.arange(1, 17)])  # and an end-of-text token: one row of 17 tokens
    manifest = verify_packed(tmp_path / "data")
    assert (manifest.padding_tokens, manifest.padded_row) == (0, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padded_row": 3}, r"manifest\.json: padded_row is 3, but the last row cut lies at \d+"),
        ({"padding_tokens": 0}, r"manifest\.json: padded_row is \d+, but the last row cut lies at None"),
        ({"padding_tokens": 16}, r"data: row \d+ does not end with the 16 tokens of padding"),
        ({"rows": 5}, r"manifest\.json: the shards have \d+ rows, but it says 5 in all"),
        ({"domains": {"novels": 4}}, r"manifest\.json: the shards have .* \{'novels': 4\} by domain"),
    ],
)
def test_a_manifest_that_says_something_else_than_the_shards_is_found(copied, changes, message):
    PackManifest.read(copied).model_copy(update=changes).write(copied)
    with pytest.raises(ValueError, match=message):
        verify_packed(copied)


def test_a_parquet_file_that_the_manifest_does_not_list_is_found(copied):
    (copied / "shard-00099.parquet").write_bytes((copied / "shard-00000.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"shard-00099\.parquet not in manifest\.json.*remove it"):
        verify_packed(copied)


def test_a_flipped_byte_of_a_shard_is_found(copied):
    path = copied / "shard-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-00000\.parquet: the file's SHA-256"):
        verify_packed(copied)


def test_a_data_set_that_is_whole_is_given_back(packed):
    assert verify_packed(packed) == PackManifest.read(packed)

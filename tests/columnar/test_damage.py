"""Whatever is broken is found and named, with the place: file, page, rows, byte."""

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yunmin_assets.columnar import (
    DamagedFileError,
    PackConfig,
    PackedDataset,
    PackManifest,
    pack_documents,
    verify_packed,
)
from yunmin_assets.columnar.batches import IGNORED_LABEL
from yunmin_assets.columnar.manifest import FINGERPRINT
from yunmin_assets.columnar.shard_index import index_name


def flip(path, offset, mask=0x01):
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def packed_before_indexes(folder):
    """Turn a data set into one of those that were packed without page indexes and manifest fingerprints."""
    content = json.loads((folder / "manifest.json").read_text())
    del content[FINGERPRINT]
    for entry in content["files"]:
        del entry["index_sha256"]
        (folder / index_name(entry["name"])).unlink()
    (folder / "manifest.json").write_text(json.dumps(content))


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        PackedDataset(tmp_path)


def test_a_manifest_of_something_else_is_named(copied):
    (copied / "manifest.json").write_text('{"rows": 3}')
    with pytest.raises(DamagedFileError, match=r"manifest\.json: not a manifest"):
        PackedDataset(copied)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_flipped_byte_in_the_manifest_is_found_or_changes_nothing(packed, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("manifest")
    good = (packed / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(good)
    flip(folder / "manifest.json", data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(1, 255)))
    try:
        found = PackManifest.read(folder)
    except DamagedFileError as error:
        assert "manifest.json" in str(error)
    else:
        assert found == PackManifest.read(packed)


@pytest.mark.parametrize(
    "name",
    ["../evil/shard-00000.parquet", "/etc/shard-00000.parquet", "shard-0.parquet", "shard-00000.parquet/x"],
)
def test_a_manifest_that_points_to_another_place_is_refused(copied, name):
    content = json.loads((copied / "manifest.json").read_text())
    del content[FINGERPRINT]
    content["files"][0]["name"] = name
    (copied / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DamagedFileError, match=r"manifest\.json: not a manifest (?s:.*)files\.0\.name"):
        PackedDataset(copied)


def test_a_missing_shard_is_named(copied):
    (copied / "shard-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00002\.parquet is missing"):
        PackedDataset(copied)


def test_a_truncated_shard_is_named_with_the_place(copied):
    path = copied / "shard-00001.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(DamagedFileError, match=rf"shard-00001\.parquet: .*at byte {len(data) - 10}\."):
        PackedDataset(copied)


def test_a_shard_of_another_data_set_is_refused(copied, pack, make_documents, tmp_path):
    pack(tmp_path / "other", make_documents(200, seed=5), compression="none")
    shutil.copy(tmp_path / "other" / "shard-00000.parquet", copied)
    with pytest.raises(DamagedFileError, match=r"shard-00000\.parquet: the file has"):
        PackedDataset(copied)


def test_a_shard_that_shrinks_while_it_is_read_is_named(copied):
    dataset = PackedDataset(copied)
    path = copied / "shard-00004.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DamagedFileError, match=r"shard-00004\.parquet: page \d+ .* ends after \d+ bytes"):
        list(dataset)


@pytest.mark.parametrize("with_index", [True, False])
def test_a_flipped_byte_is_found_when_its_page_is_read_and_named_with_page_and_rows(copied, with_index):
    if not with_index:
        packed_before_indexes(copied)
    flip(copied / "shard-00003.parquet", 60)
    with pytest.raises(
        DamagedFileError,
        match=r"shard-00003\.parquet: page 0 \(rows 0 to 3\) does not match its checksum, at byte 29\.",
    ):
        list(PackedDataset(copied))


def test_a_loop_delivers_what_it_can_before_a_damaged_page(copied):
    expected = list(PackedDataset(copied, batch_size=4, shuffle=False))
    with_header = pq.read_metadata(copied / "shard-00005.parquet").row_group(0).column(0).data_page_offset
    flip(copied / "shard-00005.parquet", with_header + 60)
    delivered = 0
    with pytest.raises(DamagedFileError):
        for _ in PackedDataset(copied, batch_size=4, shuffle=False):
            delivered += 1
    assert 0 < delivered < len(expected)


@pytest.mark.parametrize("offset", [0, 20, 700, -1])
def test_a_flipped_byte_in_a_page_index_is_found(copied, offset):
    flip(copied / "shard-00002.index.safetensors", offset)
    with pytest.raises(DamagedFileError, match=r"shard-00002\.index\.safetensors: the page index is not"):
        PackedDataset(copied)
    with pytest.raises(DamagedFileError, match=r"shard-00002\.index\.safetensors"):
        verify_packed(copied)


def test_a_missing_page_index_is_named(copied):
    (copied / "shard-00002.index.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00002\.index\.safetensors is missing"):
        PackedDataset(copied)


def test_a_data_set_without_page_indexes_gives_the_same_batches(copied, packed, same_batches):
    packed_before_indexes(copied)
    assert same_batches(PackedDataset(copied), PackedDataset(packed))


def test_padding_is_known_though_the_manifest_does_not_say_where_it_is(copied, packed, same_batches):
    content = json.loads((copied / "manifest.json").read_text())
    del content[FINGERPRINT], content["padded_row"]
    (copied / "manifest.json").write_text(json.dumps(content))
    batches = list(PackedDataset(copied))
    masked = sum(int((batch["labels"] == IGNORED_LABEL).sum()) for batch in batches)
    assert masked == content["padding_tokens"] > 0
    assert same_batches(batches, PackedDataset(packed))
    assert verify_packed(copied).padded_row is None


def test_without_an_index_a_flipped_byte_among_the_document_starts_is_found(copied):
    packed_before_indexes(copied)
    path = copied / "shard-00000.parquet"
    place = pq.read_metadata(path).row_group(0).column(1)
    flip(path, place.data_page_offset + place.total_compressed_size - 1)
    with pytest.raises(DamagedFileError, match=r"shard-00000\.parquet: doc_start or domain"):
        PackedDataset(copied)


def test_without_an_index_a_damaged_footer_is_found(copied):
    packed_before_indexes(copied)
    path = copied / "shard-00000.parquet"
    flip(path, path.stat().st_size - 6)
    with pytest.raises(DamagedFileError, match=r"shard-00000\.parquet: the footer is said to be"):
        PackedDataset(copied)


@pytest.mark.parametrize("with_index", [True, False])
@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_flipped_byte_anywhere_is_found_or_changes_nothing(
    packed, same_batches, tmp_path_factory, with_index, data
):
    folder = tmp_path_factory.mktemp("flip") / "data"
    shutil.copytree(packed, folder)
    if not with_index:
        packed_before_indexes(folder)
    path = folder / data.draw(st.sampled_from(sorted(path.name for path in folder.glob("shard-00005.*"))))
    flip(path, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(1, 255)))
    try:
        batches = list(PackedDataset(folder))
    except DamagedFileError as error:
        assert str(path) in str(error)
    else:
        assert same_batches(batches, PackedDataset(packed))


def test_a_data_set_without_rows_is_refused(tmp_path, packed):
    empty = {**PackManifest.read(packed).model_dump(), "files": (), "rows": 0}
    PackManifest(**empty).write(tmp_path)
    with pytest.raises(ValueError, match="no rows"):
        PackedDataset(tmp_path)


def test_an_empty_domain_is_refused_by_name(copied):
    manifest = PackManifest.read(copied)
    manifest.model_copy(update={"domains": {**manifest.domains, "law": 0}}).write(copied)
    with pytest.raises(ValueError, match=r"domains \['law'\] are empty"):
        PackedDataset(copied)


def test_a_domain_that_the_manifest_does_not_know_is_named(copied):
    manifest = PackManifest.read(copied)
    manifest.model_copy(update={"domains": {"poems": manifest.rows}}).write(copied)
    with pytest.raises(DamagedFileError, match=r"shard-00000\.parquet: domains \['novels'\] are not"):
        PackedDataset(copied)


def test_damage_in_another_process_of_the_loader_is_named_too(copied):
    from torch.utils.data import DataLoader

    flip(copied / "shard-00003.parquet", 60)
    loader = DataLoader(PackedDataset(copied), batch_size=None, num_workers=1)
    with pytest.raises(Exception, match=r"shard-00003\.parquet: page 0"):
        list(loader)


def test_a_vocabulary_of_four_bytes_is_checked_alike(tmp_path):
    config = PackConfig(seq_len=8, vocab_size=100_000, page_bytes=80)
    pack_documents([np.arange(1, 400)], tmp_path / "data", config)
    flip(tmp_path / "data" / "shard-00000.parquet", 50)
    with pytest.raises(DamagedFileError, match="page 0"):
        list(PackedDataset(tmp_path / "data"))


def test_an_index_that_became_shorter_after_it_was_opened_is_found(copied):
    dataset = PackedDataset(copied, window_pages=1)
    index = copied / "shard-00000.index.safetensors"
    os.truncate(index, index.stat().st_size // 2)
    with pytest.raises(DamagedFileError, match=r"shard-00000\.index\.safetensors: the page index ends early"):
        list(dataset)

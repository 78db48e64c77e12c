import json
import shutil
from collections import Counter
from itertools import chain

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from yunmin_assets.columnar import DamagedFileError, PackConfig, PackedDataset, PackManifest, pack_documents
from yunmin_assets.columnar.loader import IGNORED_LABEL


def rows_of(batch):
    """A batch's rows as tuples of seq_len + 1 tokens; a masked label stands for the end-of-text token 0."""
    joined = torch.cat([batch["input_ids"], batch["labels"][:, -1:].clamp(min=0)], dim=1)
    return [tuple(row) for row in joined.tolist()]


def delivered(dataset):
    return [row for batch in dataset for row in rows_of(batch)]


def same_batch(one, other):
    tensors = ("input_ids", "labels", "doc_start")
    return all(torch.equal(one[name], other[name]) for name in tensors) and one["domain"] == other["domain"]


@pytest.fixture(scope="module")
def stored(packed, read_rows):
    return [tuple(row) for row in read_rows(packed).tolist()]


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize(("vocab_size", "dtype"), [(500, "<u2"), (70_000, "<u4")])
def test_an_epoch_delivers_every_row_once(
    tmp_path, pack, make_documents, read_rows, compression, vocab_size, dtype
):
    documents = make_documents(60, vocab_size=vocab_size)
    pack(tmp_path / "data", documents, compression=compression, vocab_size=vocab_size)
    expected = Counter(tuple(row) for row in read_rows(tmp_path / "data", dtype).tolist())
    assert Counter(delivered(PackedDataset(tmp_path / "data", window_pages=5))) == expected


def test_a_batch_has_int64_inputs_and_shifted_labels(packed):
    batch = next(iter(PackedDataset(packed, batch_size=8)))
    assert batch["input_ids"].shape == batch["labels"].shape == batch["doc_start"].shape == (8, 16)
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    assert torch.equal(batch["labels"][:, :-1], batch["input_ids"][:, 1:])
    assert batch["domain"] == ["novels"] * 8


def test_padding_is_never_predicted_and_everything_else_is(tmp_path):
    manifest = pack_documents([[5, 6], [7]], tmp_path / "data", PackConfig(seq_len=6, vocab_size=10))
    (batch,) = PackedDataset(tmp_path / "data")
    assert batch["input_ids"].tolist() == [[5, 6, 0, 7, 0, 0]]
    assert batch["labels"].tolist() == [[6, 0, 7, 0, IGNORED_LABEL, IGNORED_LABEL]]
    assert manifest.padding_tokens == 2


def test_masking_labels_in_place_leaves_the_inputs_alone(packed):
    batch = next(iter(PackedDataset(packed)))
    inputs = batch["input_ids"].clone()
    batch["labels"].view(-1)[:] = -100
    assert torch.equal(batch["input_ids"], inputs)


@pytest.mark.parametrize("shuffle", [True, False])
def test_document_starts_belong_to_their_rows(packed, stored, shuffle):
    tables = [pq.read_table(path) for path in sorted(packed.glob("*.parquet"))]
    starts = [places for table in tables for places in table["doc_start"].to_pylist()]
    expected = dict(zip(stored, starts, strict=True))
    assert len(expected) == len(stored)  # no two rows are alike, so a row names its starts
    for batch in PackedDataset(packed, shuffle=shuffle):
        for row, mask in zip(rows_of(batch), batch["doc_start"], strict=True):
            assert mask.nonzero().flatten().tolist() == expected[row]


def test_the_first_document_starts_in_the_first_row(tmp_path):
    pack_documents([[5, 6], [7]], tmp_path / "data", PackConfig(seq_len=6, vocab_size=10))
    (batch,) = PackedDataset(tmp_path / "data")
    assert batch["input_ids"].tolist() == [[5, 6, 0, 7, 0, 0]]
    assert batch["doc_start"].tolist() == [[True, False, False, True, False, False]]


def test_without_shuffling_rows_come_as_they_are_stored(packed, stored):
    assert delivered(PackedDataset(packed, shuffle=False, window_pages=3)) == stored


def test_shuffling_depends_on_seed_and_epoch_alone(packed, stored):
    first, second, other = PackedDataset(packed), PackedDataset(packed), PackedDataset(packed, seed=1)
    epochs = [delivered(first), delivered(first), delivered(other), stored]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [delivered(second), delivered(second)] == epochs[:2]


def test_the_last_batch_of_an_epoch_is_smaller_and_counted(packed, stored):
    dataset = PackedDataset(packed, batch_size=10, epochs=2)
    sizes = [len(batch["input_ids"]) for batch in dataset]
    assert len(stored) % 10 != 0
    assert sizes == ([10] * (len(stored) // 10) + [len(stored) % 10]) * 2
    assert len(dataset) == len(sizes)


def test_an_endless_loop_goes_through_epoch_after_epoch(packed, stored):
    dataset = PackedDataset(packed, batch_size=50, epochs=None)
    rows = []
    for batch in dataset:
        rows += rows_of(batch)
        if len(rows) >= 3 * len(stored):
            break
    assert Counter(rows) == Counter(stored * 3)
    with pytest.raises(TypeError, match="endless"):
        len(dataset)


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_global_batch_is_the_same_for_every_world_size(packed, world_size):
    single = list(PackedDataset(packed, batch_size=16, window_pages=7))
    ranks = [
        list(PackedDataset(packed, batch_size=16, window_pages=7, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert {len(batches) for batches in ranks} == {len(single)}
    for step, batch in enumerate(single):
        shares = [rows_of(batches[step]) for batches in ranks]
        assert sorted(chain.from_iterable(shares)) == sorted(rows_of(batch))
        if step < len(single) - 1:
            assert {len(share) for share in shares} == {16 // world_size}


def test_a_rank_without_rows_in_the_last_batch_gets_an_empty_one(tmp_path, pack, read_rows):
    pack(tmp_path / "data", [np.arange(1, 9 * 16 + 1) % 499 + 1])
    assert len(read_rows(tmp_path / "data")) == 9
    last = [
        list(PackedDataset(tmp_path / "data", batch_size=8, rank=rank, world_size=4))[-1]["input_ids"]
        for rank in range(4)
    ]
    assert sorted(tuple(inputs.shape) for inputs in last) == [(0, 16), (0, 16), (0, 16), (1, 16)]


@given(steps=st.integers(0, 40), epochs=st.integers(1, 3), shuffle=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_loop_resumes_exactly_where_it_stopped(packed, steps, epochs, shuffle):
    options = {"batch_size": 24, "epochs": epochs, "shuffle": shuffle, "window_pages": 9}
    uninterrupted = list(PackedDataset(packed, **options))
    stopped = PackedDataset(packed, **options)
    batches = iter(stopped)
    before = [batch for _, batch in zip(range(steps), batches, strict=False)]
    resumed = PackedDataset(packed, **options)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    after = list(resumed)
    if len(before) < len(uninterrupted):  # else the state is already that of the next loop
        assert len(before) + len(after) == len(uninterrupted)
        assert all(map(same_batch, before + after, uninterrupted))


def test_a_run_resumes_on_another_number_of_ranks_and_with_another_batch_size(packed):
    whole = delivered(PackedDataset(packed))
    first = PackedDataset(packed, batch_size=12, rank=1, world_size=2)
    next(iter(first))
    state = first.state_dict()
    rest = []
    for rank in range(4):
        dataset = PackedDataset(packed, batch_size=8, rank=rank, world_size=4)
        dataset.load_state_dict(state)
        rest += delivered(dataset)
    assert sorted(rest) == sorted(whole[12:])


def test_a_loop_that_was_left_early_is_continued(packed, stored):
    dataset = PackedDataset(packed, batch_size=5)
    first = next(iter(dataset))
    assert Counter(rows_of(first) + delivered(dataset)) == Counter(stored)


def test_the_state_is_small_and_the_same_on_every_rank(packed):
    states = []
    for rank in range(2):
        dataset = PackedDataset(packed, rank=rank, world_size=2)
        next(iter(dataset))
        states.append(dataset.state_dict())
    assert states[0] == states[1]
    assert (states[0]["samples"], states[0]["epoch"], states[0]["seed"]) == (8, 0, 0)
    assert len(json.dumps(states[0])) < 1024


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 3}, "seed"),
        ({"lanes": 4}, "lanes"),
        ({"window_pages": 2}, "window_pages"),
        ({"shuffle": False}, "shuffle"),
    ],
)
def test_a_state_of_another_order_is_refused(packed, options, name):
    with pytest.raises(ValueError, match=f"cannot resume: {name} is"):
        PackedDataset(packed).load_state_dict(PackedDataset(packed, **options).state_dict())


def test_a_state_of_another_data_set_is_refused(packed, tmp_path, pack, make_documents):
    pack(tmp_path / "data", make_documents(201))
    with pytest.raises(ValueError, match="cannot resume: manifest is"):
        PackedDataset(packed).load_state_dict(PackedDataset(tmp_path / "data").state_dict())


def test_a_state_out_of_range_is_refused(packed):
    dataset = PackedDataset(packed)
    with pytest.raises(ValueError, match="out of range"):
        dataset.load_state_dict({**dataset.state_dict(), "samples": 10**6})


def test_it_works_in_a_torch_data_loader(packed, stored):
    loader = DataLoader(PackedDataset(packed), batch_size=None, num_workers=0)
    assert Counter(row for batch in loader for row in rows_of(batch)) == Counter(stored)
    assert len(loader) == len(PackedDataset(packed))


def test_worker_processes_are_refused_because_they_would_repeat_rows(packed):
    loader = DataLoader(PackedDataset(packed), batch_size=None, num_workers=1)
    with pytest.raises(RuntimeError, match="num_workers=0"):
        next(iter(loader))


def test_batches_of_sorted_data_are_well_mixed(tmp_path):
    rows, seq_len = 2048, 32
    config = PackConfig(seq_len=seq_len, vocab_size=rows + 2, page_bytes=16 * 66, rows_per_row_group=256)
    documents = [np.repeat(np.arange(1, rows + 1), seq_len)]  # row r holds token r + 1: sorted as can be
    pack_documents(documents, tmp_path / "data", config)
    batches = PackedDataset(tmp_path / "data", batch_size=32, window_pages=16)
    means = np.array([batch["input_ids"].double().mean().item() for batch in batches])
    ideal = rows / np.sqrt(12) / np.sqrt(32)  # spread of the means of 32 numbers drawn from 1 … rows
    assert means.std() / ideal < 1.3  # 5.7 when sorted


@pytest.fixture
def copied(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "data")
    return tmp_path / "data"


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        PackedDataset(tmp_path)


def test_a_damaged_manifest_is_named(copied):
    (copied / "manifest.json").write_text('{"rows": 3}')
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
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


def test_a_flipped_byte_is_found_when_its_page_is_read(copied):
    path = copied / "shard-00003.parquet"
    data = bytearray(path.read_bytes())
    data[60] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"shard-00003\.parquet: .*page 0.* at byte 4\."):
        list(PackedDataset(copied))


def test_a_flipped_byte_among_the_document_starts_is_found(copied):
    path = copied / "shard-00000.parquet"
    place = pq.read_metadata(path).row_group(0).column(1)
    data = bytearray(path.read_bytes())
    data[place.data_page_offset + place.total_compressed_size - 1] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"shard-00000\.parquet: doc_start or domain"):
        PackedDataset(copied)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_anywhere_is_found_or_changes_nothing(packed, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "data" / "shard-00005.parquet"
    shutil.copytree(packed, path.parent)
    good = path.read_bytes()
    offset = data.draw(st.integers(0, len(good) - 1))
    path.write_bytes(
        good[:offset] + bytes([good[offset] ^ data.draw(st.integers(1, 255))]) + good[offset + 1 :]
    )
    try:
        batches = list(PackedDataset(path.parent))
    except DamagedFileError as error:
        assert str(path) in str(error)
    else:
        assert all(map(same_batch, batches, PackedDataset(packed)))


def test_a_data_set_without_rows_is_refused(tmp_path, packed):
    empty = {**PackManifest.read(packed).model_dump(), "files": (), "rows": 0}
    PackManifest(**empty).write(tmp_path)
    with pytest.raises(ValueError, match="no rows"):
        PackedDataset(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world_size": 3, "batch_size": 6}, "world_size 3 does not divide the 8 lanes"),
        ({"world_size": 4, "batch_size": 6}, "batch_size 6 counts the rows of all ranks"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not below world_size 2"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"window_pages": 0}, "window_pages"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(packed, options, message):
    with pytest.raises(ValueError, match=message):
        PackedDataset(packed, **options)

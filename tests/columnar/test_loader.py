import json
import os
import subprocess
import sys
import threading
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yunmin_assets.columnar import MixedDataset, PackConfig, PackedDataset, pack_documents
from yunmin_assets.columnar.batches import IGNORED_LABEL


@pytest.fixture(scope="session")
def delivered(rows_of):
    return lambda dataset: [row for batch in dataset for row in rows_of(batch)]


@pytest.fixture(scope="module")
def stored(packed, read_rows):
    return [tuple(row) for row in read_rows(packed).tolist()]


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize(("vocab_size", "dtype"), [(500, "<u2"), (70_000, "<u4")])
def test_an_epoch_delivers_every_row_once(
    tmp_path, pack, make_documents, read_rows, compression, vocab_size, dtype, delivered
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


def rows_with_labels(documents, seq_len):
    """Inputs and labels of every row in plain Python; only what fills up the last row is not predicted."""
    stream = [token for document in documents for token in (*document, 0)]
    padding = -(len(stream) - 1) % seq_len
    labels = stream[1:] + [IGNORED_LABEL] * padding
    inputs = stream[:-1] + [0] * padding
    begins = range(0, len(inputs), seq_len)
    return Counter(
        (tuple(inputs[begin : begin + seq_len]), tuple(labels[begin : begin + seq_len])) for begin in begins
    )


def delivered_with_labels(dataset):
    return Counter(
        (tuple(inputs), tuple(labels))
        for batch in dataset
        for inputs, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
    )


@pytest.mark.parametrize("batch_size", [1, 4, 8, 16, 32])
def test_the_end_of_text_id_within_documents_is_predicted_whatever_the_batch_size(tmp_path, batch_size):
    documents = [[5, 0, 0, 6, 7, 0, 0, 0]] * 64
    config = PackConfig(seq_len=16, vocab_size=10, page_bytes=150)
    manifest = pack_documents(documents, tmp_path / "data", config)
    found = delivered_with_labels(PackedDataset(tmp_path / "data", batch_size=batch_size))
    assert found == rows_with_labels(documents, 16)
    masked = sum(count * labels.count(IGNORED_LABEL) for (_, labels), count in found.items())
    assert masked == manifest.padding_tokens > 0


@given(
    documents=st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=40).filter(any),
    seq_len=st.integers(1, 9),
    seed=st.integers(0, 9),
    batch_size=st.integers(1, 20),
    epochs=st.integers(1, 3),
    shuffle=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_token_is_predicted_once_whatever_its_id_and_nothing_else_is(
    tmp_path_factory, documents, seq_len, seed, batch_size, epochs, shuffle
):
    folder = tmp_path_factory.mktemp("padding") / "data"
    config = PackConfig(
        seq_len=seq_len, vocab_size=3, seed=seed, page_bytes=40, rows_per_row_group=8, shard_bytes=100
    )
    pack_documents(documents, folder, config)
    options = {"batch_size": batch_size, "shuffle": shuffle, "window_pages": 3, "epochs": epochs}
    expected = rows_with_labels(documents, seq_len)
    found = delivered_with_labels(PackedDataset(folder, **options))
    assert found == Counter({row: epochs * count for row, count in expected.items()})
    ranks = [
        PackedDataset(folder, rank=rank, world_size=2, **{**options, "batch_size": 4}) for rank in (0, 1)
    ]
    assert sum(map(delivered_with_labels, ranks), Counter()) == found


def test_each_source_of_a_mixture_has_its_own_padding(tmp_path):
    documents = {"law": [[1] * 20], "news": [[2, 0, 0, 2], []], "poems": [[3] * 8]}
    for name, texts in documents.items():
        pack_documents(texts, tmp_path / name, PackConfig(seq_len=8, vocab_size=4))
    mixed = MixedDataset({name: tmp_path / name for name in documents}, dict.fromkeys(documents, 1), 16)
    found = delivered_with_labels(batch for _, batch in zip(range(20), mixed, strict=False))
    expected = sum((rows_with_labels(texts, 8) for texts in documents.values()), Counter())
    assert set(found) == set(expected)


def test_masking_labels_in_place_leaves_the_inputs_alone(packed):
    batch = next(iter(PackedDataset(packed)))
    inputs = batch["input_ids"].clone()
    batch["labels"].view(-1)[:] = -100
    assert torch.equal(batch["input_ids"], inputs)


@pytest.mark.parametrize("shuffle", [True, False])
def test_document_starts_belong_to_their_rows(packed, stored, shuffle, rows_of):
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


def test_without_shuffling_rows_come_as_they_are_stored(packed, stored, delivered):
    assert delivered(PackedDataset(packed, shuffle=False, window_pages=3)) == stored


def test_shuffling_depends_on_seed_and_epoch_alone(packed, stored, delivered):
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


def test_an_endless_loop_goes_through_epoch_after_epoch(packed, stored, rows_of):
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
def test_the_global_batch_is_the_same_for_every_world_size(packed, world_size, rows_of):
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
def test_a_loop_resumes_exactly_where_it_stopped(packed, steps, epochs, shuffle, same_batch):
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


def test_a_run_resumes_on_another_number_of_ranks_and_with_another_batch_size(packed, delivered):
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


def test_a_loop_that_was_left_early_is_continued(packed, stored, delivered, rows_of):
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


def test_batches_of_sorted_data_are_well_mixed(tmp_path):
    rows, seq_len = 2048, 32
    config = PackConfig(seq_len=seq_len, vocab_size=rows + 2, page_bytes=16 * 66, rows_per_row_group=256)
    documents = [np.repeat(np.arange(1, rows + 1), seq_len)]  # row r holds token r + 1: sorted as can be
    pack_documents(documents, tmp_path / "data", config)
    batches = PackedDataset(tmp_path / "data", batch_size=32, window_pages=16)
    means = np.array([batch["input_ids"].double().mean().item() for batch in batches])
    ideal = rows / np.sqrt(12) / np.sqrt(32)  # spread of the means of 32 numbers drawn from 1 … rows
    assert means.std() / ideal < 1.3  # 5.7 when sorted


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


def test_two_loops_over_one_data_set_at_once_do_not_disturb_each_other(packed, same_batch):
    dataset = PackedDataset(packed, window_pages=5)
    expected = list(PackedDataset(packed, window_pages=5))
    first = iter(dataset)
    before = [next(first) for _ in range(10)]
    dataset.load_state_dict({**dataset.state_dict(), "samples": 0})
    second = iter(dataset)
    for number, (other, one) in enumerate(zip(second, first, strict=False)):
        assert same_batch(other, expected[number])
        assert same_batch(one, expected[number + 10])
    assert all(map(same_batch, before, expected))


def page_readers():
    return [thread for thread in threading.enumerate() if thread.name == "page-reader"]


def test_a_folder_is_read_without_a_thread(packed):
    already = len(page_readers())
    batches = iter(PackedDataset(packed))
    next(batches)
    assert len(page_readers()) == already


def test_a_thread_changes_nothing_about_the_batches(packed, same_batches):
    options = {"window_pages": 5, "epochs": 3}
    assert same_batches(PackedDataset(packed, **options), PackedDataset(packed, read_thread=True, **options))


def test_no_thread_is_left_when_a_loop_ends_or_is_left_early(packed):
    already = len(page_readers())
    list(PackedDataset(packed, read_thread=True))
    assert len(page_readers()) == already
    batches = iter(PackedDataset(packed, epochs=None, read_thread=True))
    next(batches)
    assert len(page_readers()) == already + 1
    del batches
    assert len(page_readers()) == already


@pytest.mark.parametrize("window_pages", [1, 2, 33, 10_000])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_windows_and_batches_may_have_any_size(packed, stored, delivered, window_pages, batch_size):
    dataset = PackedDataset(packed, window_pages=window_pages, batch_size=batch_size, epochs=2)
    assert Counter(delivered(dataset)) == Counter(stored * 2)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes with Linux's /proc")
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_an_epoch_reads_the_pages_and_hardly_more(tmp_path, compression):
    config = PackConfig(seq_len=512, vocab_size=500, compression=compression, shard_bytes=2_000_000)
    random = np.random.default_rng(0)
    pack_documents((random.integers(1, 500, 500) for _ in range(4000)), tmp_path / "data", config)
    page_bytes = sum(path.stat().st_size for path in (tmp_path / "data").glob("*.parquet"))

    def bytes_read():
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])

    before = bytes_read()
    for _ in PackedDataset(tmp_path / "data", window_pages=16):
        pass
    assert bytes_read() - before <= 1.1 * page_bytes


MEASURE_MEMORY = """
import sys, torch
from pathlib import Path

def resident_megabytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":") for line in lines if line.startswith("Vm"))[field].split()[0]) / 1000

before = resident_megabytes("VmRSS")
from yunmin_assets.columnar import PackedDataset
for _ in PackedDataset(sys.argv[1], window_pages=64, epochs=int(sys.argv[2])):
    pass
print(resident_megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory with Linux's /proc")
def test_memory_is_that_of_a_window_whatever_the_size_of_the_data(tmp_path):
    random = np.random.default_rng(0)
    extra = []
    for name, tokens, epochs in (("small", 6_000_000, 8), ("large", 48_000_000, 1)):
        documents = (random.integers(1, 60_000, 1000) for _ in range(tokens // 1000))
        pack_documents(documents, tmp_path / name, PackConfig(seq_len=2048, shard_bytes=16_000_000))
        command = [sys.executable, "-c", MEASURE_MEMORY, str(tmp_path / name), str(epochs)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        extra.append(float(done.stdout))
    assert extra[1] < extra[0] + 4
    assert extra[1] < 45  # a window of 4 MB, and what is imported

"""`PackedDataset` inside the loaders that other people write."""

import json
import pickle
import shutil
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from accelerate import Accelerator
from torch.utils.data import DataLoader

from yunmin_assets.columnar import MixedDataset, PackedDataset


@pytest.fixture(scope="module")
def stored(packed, read_rows):
    return [tuple(row) for row in read_rows(packed).tolist()]


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory, pack, make_documents):
    folder = tmp_path_factory.mktemp("sources")
    for number, name in enumerate(("law", "news")):
        pack(folder / name, make_documents(60, seed=number))
    return {"law": folder / "law", "news": folder / "news"}


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_a_data_loader_gives_the_same_batches_with_any_number_of_workers(
    packed, stored, rows_of, workers, same_batches
):
    expected = list(PackedDataset(packed, batch_size=10))
    loader = DataLoader(PackedDataset(packed, batch_size=10), batch_size=None, num_workers=workers)
    batches = list(loader)
    assert len(batches) == len(expected) == len(loader)
    assert same_batches(batches, expected)
    assert Counter(row for batch in batches for row in rows_of(batch)) == Counter(stored)


@pytest.mark.parametrize("samples", [0, 40, 43])
def test_workers_begin_where_the_data_set_stands_and_cross_epochs(packed, samples, same_batches):
    def dataset():
        made = PackedDataset(packed, batch_size=10, epochs=2)
        made.load_state_dict({**made.state_dict(), "samples": samples})
        return made

    expected = list(dataset())
    assert same_batches(DataLoader(dataset(), batch_size=None, num_workers=2), expected)


def test_workers_that_are_spawned_open_the_files_themselves(packed, same_batches):
    expected = list(PackedDataset(packed, batch_size=50))
    loader = DataLoader(
        PackedDataset(packed, batch_size=50),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="spawn",
    )
    assert same_batches(loader, expected)


def test_workers_do_not_move_the_original_but_set_epoch_does(packed, same_batches):
    original, moving = PackedDataset(packed, batch_size=50), PackedDataset(packed, batch_size=50)
    first, second = list(moving), list(moving)
    loader = DataLoader(original, batch_size=None, num_workers=2)
    assert same_batches(loader, first)
    original.set_epoch(1)
    assert same_batches(loader, second)


def test_without_set_epoch_every_loop_of_workers_is_the_same(packed, same_batches):
    loader = DataLoader(PackedDataset(packed, batch_size=50), batch_size=None, num_workers=2)
    first, second = list(loader), list(loader)
    assert same_batches(first, second)


def test_persistent_workers_go_on_to_the_next_epoch_also_after_a_loop_that_was_left_early(
    packed, same_batches
):
    moving = PackedDataset(packed, batch_size=10)
    epochs = [list(moving) for _ in range(4)]
    loader = DataLoader(
        PackedDataset(packed, batch_size=10), batch_size=None, num_workers=3, persistent_workers=True
    )
    assert same_batches(loader, epochs[0])
    for delivered, _ in enumerate(loader):
        if delivered == 1:  # the workers have read on, each to another place
            break
    assert same_batches(loader, epochs[2])
    assert same_batches(loader, epochs[3])


def test_persistent_workers_begin_an_endless_loop_that_was_left_again(packed, same_batches):
    expected = list(PackedDataset(packed, batch_size=10))
    loader = DataLoader(
        PackedDataset(packed, batch_size=10, epochs=None),
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
    )
    for delivered in (3, 20):
        assert same_batches(islice(loader, delivered), expected[:delivered])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_original_of_workers_copies_does_not_say_where_it_stands(packed, start):
    dataset = PackedDataset(packed, batch_size=50)
    before = dataset.state_dict()
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=start)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="StatefulDataLoader"):
        dataset.state_dict()
    dataset.load_state_dict(before)  # whoever chooses a place knows it
    assert dataset.state_dict() == before
    next(iter(loader))
    next(iter(dataset))  # without workers
    assert dataset.state_dict()["samples"] == 50


def test_a_pickled_copy_stands_at_the_same_place_and_moves_by_itself(packed, same_batches):
    dataset = PackedDataset(packed, batch_size=50)
    next(iter(dataset))
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.state_dict() == dataset.state_dict()
    assert same_batches(copy, list(PackedDataset(packed, batch_size=50))[1:])
    assert dataset.state_dict()["samples"] == 50


def test_a_pickled_data_set_refuses_other_data_in_its_place(copied, pack, make_documents):
    pickled = pickle.dumps(PackedDataset(copied))
    shutil.rmtree(copied)
    pack(copied, make_documents(100, seed=9))
    with pytest.raises(ValueError, match=r"data' with \d+ rows .* is not the data set that was pickled"):
        pickle.loads(pickled)


def test_states_that_are_none_are_refused_by_name(packed):
    dataset = PackedDataset(packed)
    state = dataset.state_dict()
    without = {name: value for name, value in state.items() if name != "samples"}
    with pytest.raises(ValueError, match="None is not what state_dict"):
        dataset.load_state_dict(None)
    for wrong, problem in [
        ({**state, "samples": 3.5}, r"samples is 3\.5"),
        ({**state, "samples": None}, "samples is None"),
        (without, "samples is None"),
        ({**state, "epoch": True}, "epoch is True"),
        ({**state, "worker": None, "workers": 2}, "worker is None"),
        ({**state, "order": 0}, "order is 0"),
    ]:
        with pytest.raises(ValueError, match=f"cannot resume: {problem}"):
            dataset.load_state_dict(wrong)


def test_numbers_of_numpy_are_numbers_and_others_are_refused_by_name(packed):
    dataset = PackedDataset(packed, batch_size=np.int64(8), seed=np.int64(3), window_pages=np.int32(5))
    next(iter(dataset))
    assert json.loads(json.dumps(dataset.state_dict()))["seed"] == 3
    for wrong in ({"batch_size": 8.0}, {"rank": None}, {"seed": "3"}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} is .*, not a whole number"):
            PackedDataset(packed, **wrong)


def test_options_for_remote_paths_are_refused_where_no_path_is(packed):
    with pytest.raises(ValueError, match=r"remote has options for a remote path, but .* is a local one"):
        PackedDataset(packed, remote={"cache_bytes": 1})
    with pytest.raises(ValueError, match="is a local one"):
        MixedDataset({"a": packed}, {"a": 1}, remote={"cache_bytes": 1})


def test_a_tilde_is_the_home_folder(packed, monkeypatch):
    monkeypatch.setenv("HOME", str(packed.parent))
    local = PackedDataset(packed).state_dict()
    assert PackedDataset(f"~/{packed.name}").state_dict() == local
    assert len(next(iter(MixedDataset({"a": f"~/{packed.name}"}, {"a": 1})))["input_ids"]) == 8


def test_a_data_set_is_described_in_few_words(packed, stored):
    assert repr(PackedDataset(packed, batch_size=16, rank=1, world_size=2)) == (
        f"PackedDataset('{packed}' with {len(stored)} rows in {len(list(packed.glob('*.parquet')))} shards, "
        "batch_size=16, seed=0, rank=1, world_size=2, window_pages=1024, lanes=8)"
    )


def test_set_epoch_never_goes_back(packed):
    dataset = PackedDataset(packed)
    dataset.load_state_dict({**dataset.state_dict(), "epoch": 3, "samples": 16})
    dataset.set_epoch(0)
    dataset.set_epoch(3)
    assert (dataset.state_dict()["epoch"], dataset.state_dict()["samples"]) == (3, 16)
    dataset.set_epoch(4)
    assert (dataset.state_dict()["epoch"], dataset.state_dict()["samples"]) == (4, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_works_in_a_data_loader_too(two_sources, same_batch, workers):
    weights = {"law": 3.0, "news": 1.0}
    expected = MixedDataset(two_sources, weights, batch_size=8)
    loader = DataLoader(
        MixedDataset(two_sources, weights, batch_size=8), batch_size=None, num_workers=workers
    )
    for _, one, other in zip(range(60), loader, expected, strict=False):
        assert same_batch(one, other)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("delivered", [0, 1, 7, 8, 21])
def test_a_stateful_data_loader_resumes_exactly(packed, workers, delivered, same_batches):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

    def loader():
        return stateful.StatefulDataLoader(
            PackedDataset(packed, batch_size=10), batch_size=None, num_workers=workers
        )

    expected = list(PackedDataset(packed, batch_size=10))
    first = loader()
    before = [batch for _, batch in zip(range(delivered), iter(first), strict=False)]
    second = loader()
    second.load_state_dict(first.state_dict())
    after = list(second)
    assert len(before) + len(after) == len(expected)
    assert same_batches(before + after, expected)


def test_the_state_of_a_worker_is_refused_elsewhere(packed):
    dataset = PackedDataset(packed)
    dataset.load_state_dict({**dataset.state_dict(), "worker": 1, "workers": 2})
    assert json.loads(json.dumps(dataset.state_dict()))["workers"] == 2
    with pytest.raises(ValueError, match="DataLoader worker 1 of 2"):
        next(iter(dataset))


def test_accelerate_prepares_it_without_changing_the_batches(packed, same_batches):
    expected = PackedDataset(packed, batch_size=50, epochs=1)
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(PackedDataset(packed, batch_size=50), batch_size=None))
    for _ in range(2):  # the second loop is the second epoch
        batches = list(loader)
        assert same_batches(batches, list(expected))


def test_accelerate_needs_only_the_rank_where_there_is_no_data_loader(packed, same_batches):
    accelerator = Accelerator(cpu=True)
    dataset = PackedDataset(
        packed, batch_size=8, rank=accelerator.process_index, world_size=accelerator.num_processes
    )
    assert same_batches(dataset, PackedDataset(packed, batch_size=8))

"""`PackedDataset` inside the loaders that other people write."""

import json
from collections import Counter

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

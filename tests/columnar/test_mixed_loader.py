import json
import pickle
import shutil
from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yunmin_assets.columnar import MixedDataset, PackConfig, PackedDataset, pack_documents
from yunmin_assets.columnar.mixing import CYCLE, MixingSchedule, places_of_sources

WEIGHTS = {"law": 0.5, "news": 0.3, "poems": 0.2}

schedules = st.builds(
    lambda weights, seed: MixingSchedule(tuple(places_of_sources(dict(enumerate(weights))).values()), seed),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    st.integers(0, 3),
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory, pack, make_documents):
    """Three data sets of about 110, 190 and 20 rows."""
    folder = tmp_path_factory.mktemp("sources")
    for number, (name, documents) in enumerate({"law": 60, "news": 100, "poems": 10}.items()):
        pack(folder / name, make_documents(documents, seed=number))
    return {name: folder / name for name in WEIGHTS}


@given(st.lists(st.floats(0.1, 1), min_size=1, max_size=40), st.sampled_from([1e-300, 1, 1.7e308]))
def test_every_source_is_less_than_one_place_from_its_exact_share(weights, scale):
    named = {f"{number:03d}": weight * scale for number, weight in enumerate(weights)}
    places = np.array(list(places_of_sources(named).values()))
    exact = np.array(weights) / sum(weights) * CYCLE
    assert places.sum() == CYCLE
    assert np.all(np.abs(places - exact) < 1)


def test_the_smallest_and_the_largest_numbers_are_weights_too():
    assert places_of_sources({"a": 5e-324, "b": 1e-323}) == {"a": 341, "b": 683}
    assert places_of_sources({"a": 1e308, "b": 1.7e308}) == {"a": 379, "b": 645}


def test_a_weight_too_small_for_one_row_is_refused_with_its_share():
    with pytest.raises(
        ValueError, match=r"weight of 'tiny' is 0\.00049 of all, too little for one row in 1024"
    ):
        places_of_sources({"tiny": 1, "large": 2048})
    assert places_of_sources({"small": 1, "large": 2046}) == {"small": 1, "large": 1023}
    many = {f"s{number:04d}": number + 1 for number in range(CYCLE)}
    with pytest.raises(ValueError, match=r"weight of 's0000' is 1\.9e-06 of all"):
        places_of_sources(many)
    assert set(places_of_sources(dict.fromkeys(many, 1.0)).values()) == {1}
    with pytest.raises(ValueError, match="too little"):
        places_of_sources(dict.fromkeys([*many, "one more"], 1.0))


def test_weights_out_of_range_are_refused_by_name():
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight of 'law'"):
            places_of_sources({"law": weight, "news": 1.0})


@given(schedules, st.integers(0, 5000), st.integers(0, 3000))
@settings(deadline=None)
def test_the_schedule_is_the_same_from_every_side(schedule, start, length):
    walked = schedule.sources(0, start + length)
    assert np.array_equal(schedule.sources(start, start + length), walked[start:])
    for source in range(len(schedule.places)):
        rows = np.flatnonzero(walked == source)
        assert schedule.rows_before(start, source) == np.count_nonzero(rows < start)
        assert np.array_equal(schedule.positions(source, 0, len(rows)), rows)
        half = len(rows) // 2
        assert np.array_equal(schedule.positions(source, half, len(rows)), rows[half:])


def test_every_cycle_meets_the_weights_exactly_in_an_order_of_its_own(sources):
    schedule = MixingSchedule(tuple(places_of_sources(WEIGHTS).values()), seed=0)
    cycles = [schedule.sources(number * CYCLE, (number + 1) * CYCLE) for number in range(3)]
    assert {tuple(np.bincount(cycle)) for cycle in cycles} == {(512, 307, 205)}
    assert len({cycle.tobytes() for cycle in cycles}) == 3


def test_batches_hold_the_sources_in_proportion_and_each_goes_through_its_rows_in_order(sources, rows_of):
    batches = list(islice(MixedDataset(sources, WEIGHTS, batch_size=16), CYCLE // 16))
    names = list(chain.from_iterable(batch["domain"] for batch in batches))
    assert Counter(names) == {"law": 512, "news": 307, "poems": 205}
    rows = list(chain.from_iterable(rows_of(batch) for batch in batches))
    for name, places in places_of_sources(WEIGHTS).items():
        own = [row for row, source in zip(rows, names, strict=True) if source == name]
        window_pages = round(1024 * places / CYCLE)
        alone = PackedDataset(sources[name], batch_size=16, epochs=None, window_pages=window_pages)
        expected = chain.from_iterable(rows_of(batch) for batch in alone)
        assert own == list(islice(expected, len(own)))


def test_document_starts_stay_with_their_rows(sources, rows_of):
    expected = {}
    for path in sources.values():
        for batch in PackedDataset(path):
            for row, starts in zip(rows_of(batch), batch["doc_start"].tolist(), strict=True):
                expected[row] = starts
    for batch in islice(MixedDataset(sources, WEIGHTS), 20):
        for row, starts in zip(rows_of(batch), batch["doc_start"].tolist(), strict=True):
            assert starts == expected[row]


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_global_batch_of_a_mixture_is_the_same_for_every_world_size(sources, rows_of, world_size):
    options = {"batch_size": 16, "window_pages": 12}
    ranks = [
        MixedDataset(sources, WEIGHTS, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    for batch, *shares in islice(zip(MixedDataset(sources, WEIGHTS, **options), *ranks, strict=True), 60):
        assert {len(share["input_ids"]) for share in shares} == {16 // world_size}
        found = chain.from_iterable(rows_of(share) for share in shares)
        assert sorted(found) == sorted(rows_of(batch))


@given(steps=st.integers(0, 150))
@settings(max_examples=15, deadline=None)
def test_a_mixture_resumes_exactly(sources, same_batch, steps):
    options = {"batch_size": 12, "window_pages": 12}
    stopped = MixedDataset(sources, WEIGHTS, **options)
    batches = iter(stopped)
    for _ in range(steps):
        next(batches)
    state = json.dumps(stopped.state_dict())
    assert len(state) < 1024
    resumed = MixedDataset(sources, WEIGHTS, **options)
    resumed.load_state_dict(json.loads(state))
    for one, other in islice(zip(resumed, batches, strict=True), 5):
        assert same_batch(one, other)


def test_a_state_of_other_weights_or_sources_is_refused_by_name(sources):
    state = MixedDataset(sources, WEIGHTS).state_dict()
    with pytest.raises(ValueError, match="cannot resume: weights is"):
        MixedDataset(sources, {**WEIGHTS, "law": 0.9}).load_state_dict(state)
    with pytest.raises(ValueError, match="state out of range: epoch 1"):
        MixedDataset(sources, WEIGHTS).load_state_dict({**state, "epoch": 1})
    two = {name: sources[name] for name in ("law", "news")}
    with pytest.raises(ValueError, match="cannot resume: manifests is"):
        MixedDataset(two, {"law": 1, "news": 1}).load_state_dict(state)


def test_the_state_of_many_sources_is_as_small(sources):
    paths = {f"a source with a rather long name {number}": sources["poems"] for number in range(100)}
    state = MixedDataset(paths, dict.fromkeys(paths, 1.0)).state_dict()
    assert len(json.dumps(state)) < 1024


def test_set_epoch_leaves_a_mixture_where_it_is(sources, same_batch):
    undisturbed, disturbed = iter(MixedDataset(sources, WEIGHTS)), MixedDataset(sources, WEIGHTS)
    for epoch in range(3):
        for _, batch in zip(range(5), disturbed, strict=False):
            assert same_batch(batch, next(undisturbed))
        disturbed.set_epoch(epoch)
    assert disturbed.state_dict()["samples"] == 15 * 8


def test_a_mixture_is_described_in_few_words(sources):
    assert repr(MixedDataset(sources, WEIGHTS)).startswith("MixedDataset(3 sources with ")


def test_a_pickled_mixture_refuses_a_source_that_was_replaced(sources, tmp_path):
    shutil.copytree(sources["law"], tmp_path / "law")
    pickled = pickle.dumps(MixedDataset({**sources, "law": tmp_path / "law"}, WEIGHTS))
    assert len(next(iter(pickle.loads(pickled)))["input_ids"]) == 8
    shutil.rmtree(tmp_path / "law")
    shutil.copytree(sources["news"], tmp_path / "law")
    with pytest.raises(ValueError, match="is not the data set that was pickled"):
        pickle.loads(pickled)


def test_names_that_do_not_match_are_refused(sources):
    with pytest.raises(ValueError, match=r"weights for \['law'\]"):
        MixedDataset(sources, {"law": 1.0})


def test_sources_of_another_layout_are_refused_by_name(sources, tmp_path):
    pack_documents([np.arange(1, 100)], tmp_path / "long", PackConfig(seq_len=32, vocab_size=500))
    with pytest.raises(ValueError, match="'long' and 'law' cannot be mixed: seq_len is 32 and 16"):
        MixedDataset({"law": sources["law"], "long": tmp_path / "long"}, {"law": 1, "long": 1})


def test_it_has_no_length(sources):
    with pytest.raises(TypeError):
        len(MixedDataset(sources, WEIGHTS))

"""The chosen part of the order is kept, the same whatever the order of the rows."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yunmin_assets.pruning import PruningConfig, select_documents

SCORES = pa.table(
    {"id": [f"d{i}" for i in range(8)], "perplexity": [40.0, 10.0, 80.0, 30.0, 20.0, 70.0, 60.0, 50.0]}
)


def kept_ids(scores, **options):
    mask = select_documents(scores, PruningConfig(**options)).kept
    return set(np.array(scores.column("id").to_pylist())[mask])


@pytest.mark.parametrize(
    ("criterion", "kept", "lines"),
    [
        ("low", {"d1", "d4", "d3", "d0"}, (10.0, 40.0)),
        ("medium", {"d3", "d0", "d7", "d6"}, (30.0, 60.0)),
        ("high", {"d7", "d6", "d5", "d2"}, (50.0, 80.0)),
    ],
)
def test_each_criterion_keeps_its_part_of_the_order(criterion, kept, lines):
    selection = select_documents(SCORES, PruningConfig(criterion=criterion, selection_rate=0.5))
    assert kept_ids(SCORES, criterion=criterion) == kept
    assert (selection.lowest_kept, selection.highest_kept) == lines
    assert selection.removed == {f"outside the {criterion} part": 4}


def test_none_keeps_everything_even_unscored_documents():
    scores = pa.table({"id": ["a", "b"], "perplexity": [None, 3.0]})
    selection = select_documents(scores, PruningConfig(criterion="none"))
    assert selection.kept.all()
    assert selection.removed == {}


def test_a_document_without_tokens_is_removed_and_counted():
    scores = pa.table({"id": ["a", "b", "c"], "perplexity": [1.0, None, 2.0]})
    selection = select_documents(scores, PruningConfig(criterion="low", selection_rate=0.5))
    assert selection.kept.tolist() == [True, False, False]
    assert selection.removed == {"outside the low part": 1, "no tokens": 1}


def test_nothing_scored_keeps_nothing():
    scores = pa.table({"id": ["a"], "perplexity": pa.array([None], pa.float64())})
    selection = select_documents(scores, PruningConfig())
    assert not selection.kept.any()
    assert (selection.lowest_kept, selection.highest_kept) == (None, None)


def test_ties_are_broken_by_id():
    scores = pa.table({"id": ["c", "a", "d", "b"], "perplexity": [5.0] * 4})
    assert kept_ids(scores, criterion="low") == {"a", "b"}
    assert kept_ids(scores, criterion="high") == {"c", "d"}


def test_the_random_control_depends_on_the_seed_and_not_on_the_perplexity():
    ids = [f"d{i}" for i in range(400)]
    rising = pa.table({"id": ids, "perplexity": np.arange(1.0, 401.0)})
    falling = pa.table({"id": ids, "perplexity": np.arange(400.0, 0.0, -1.0)})
    chosen = kept_ids(rising, criterion="random")
    assert len(chosen) == 200
    assert chosen == kept_ids(falling, criterion="random")
    assert chosen != kept_ids(rising, criterion="random", seed=1)


def test_a_perplexity_that_is_not_finite_names_the_document():
    scores = pa.table({"id": ["good", "bad"], "perplexity": [1.0, float("inf")]})
    with pytest.raises(ValueError, match="document 'bad' has perplexity inf"):
        select_documents(scores, PruningConfig())


@given(
    perplexities=st.lists(st.floats(1, 1e6) | st.sampled_from([2.0, 3.0]), min_size=1, max_size=40),
    criterion=st.sampled_from(["low", "medium", "high", "random"]),
    rate=st.floats(0.01, 1),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_selection_has_the_right_size_and_does_not_depend_on_the_row_order(
    perplexities, criterion, rate, shuffle
):
    scores = pa.table({"id": [f"d{i}" for i in range(len(perplexities))], "perplexity": perplexities})
    kept = kept_ids(scores, criterion=criterion, selection_rate=rate)
    assert 1 <= len(kept) <= len(perplexities)
    assert abs(len(kept) - rate * len(perplexities)) <= 0.5 or len(kept) == 1
    order = list(range(len(perplexities)))
    shuffle.shuffle(order)
    assert kept_ids(scores.take(order), criterion=criterion, selection_rate=rate) == kept
    of = dict(zip(scores.column("id").to_pylist(), perplexities, strict=True))
    inside, outside = [of[i] for i in kept], [of[i] for i in of.keys() - kept]
    if criterion == "low" and outside:
        assert max(inside) <= min(outside)
    if criterion == "high" and outside:
        assert min(inside) >= max(outside)
    if criterion == "medium":
        below = sum(value < min(inside) for value in outside)
        above = sum(value > max(inside) for value in outside)
        between = len(outside) - below - above
        assert between == 0 or min(inside) in outside or max(inside) in outside

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from yunmin_assets.columnar import document_ends, document_numbers, position_ids

starts = (
    st.integers(1, 12)
    .flatmap(
        lambda length: st.lists(
            st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=4
        )
    )
    .map(torch.tensor)
)


def test_the_example_of_the_module():
    doc_start = torch.tensor([[True, False, False, True, False, False, False, True]])
    assert document_numbers(doc_start).tolist() == [[0, 0, 0, 1, 1, 1, 1, 2]]
    assert position_ids(doc_start).tolist() == [[0, 1, 2, 0, 1, 2, 3, 0]]
    assert document_ends(doc_start).tolist() == [0, 3, 7, 8]


@given(starts)
def test_all_three_say_what_a_walk_along_the_row_says(doc_start):
    numbers, positions, ends = [], [], [0]
    for row in doc_start.tolist():
        number, position = 0, 0
        for place, begins in enumerate(row):
            if begins and place > 0:
                number, position = number + 1, 0
                ends.append(ends[0] + len(numbers))
            numbers.append(number)
            positions.append(position)
            position += 1
        ends.append(len(numbers))
    assert document_numbers(doc_start).flatten().tolist() == numbers
    assert position_ids(doc_start).flatten().tolist() == positions
    assert document_ends(doc_start).tolist() == ends
    assert (document_numbers(doc_start).dtype, document_ends(doc_start).dtype) == (torch.int32, torch.int32)


@given(starts)
def test_a_state_that_is_reset_there_is_that_of_each_document_alone(doc_start):
    values = torch.rand(doc_start.shape, dtype=torch.float64)
    with_resets = torch.zeros_like(values)
    keeps_state = position_ids(doc_start) > 0
    for place in range(values.shape[1]):  # h = 0.9 h + x, h = x at the start of a document
        before = with_resets[:, place - 1] * keeps_state[:, place] if place else 0
        with_resets[:, place] = 0.9 * before + values[:, place]
    ends = document_ends(doc_start).tolist()
    flat = values.flatten()
    alone = []
    for begin, end in pairwise(ends):
        state = 0.0
        for value in flat[begin:end].tolist():
            state = 0.9 * state + value
            alone.append(state)
    assert torch.allclose(with_resets.flatten(), torch.tensor(alone, dtype=torch.float64))

"""The scan of Mamba-1 on a CPU is exact, gives the same bits again, and refuses what does not fit."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

from yunmin_assets.language_model.selective_scan import (
    recurrence,
    scan_by_unbind,
    selective_scan,
)
from yunmin_assets.language_model.selective_scan_kernels import CHUNK, TASK_CHANNELS, exp_float32

FORMS = {"compiled": recurrence, "unbind": scan_by_unbind}
TOLERANCE = 1e-5


def reference(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as the paper has it, one position after the other."""
    state = u.new_zeros(u.shape[0], u.shape[2], a.shape[1])
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(torch.einsum("bd,dn->bdn", dt[:, t], a))
        state = decay * state + torch.einsum("bd,bd,bn->bdn", dt[:, t], u[:, t], b[:, t])
        outputs.append(torch.einsum("bdn,bn->bd", state, c[:, t]))
    return torch.stack(outputs, 1), state


def reference_with_options(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` with tensors as the recurrence takes them, channels last."""
    dt = dt if bias is None else dt + bias
    dt = torch.log1p(torch.exp(dt)) if softplus else dt
    y, state = reference(u, dt, a, b, c)
    y = y if skip is None else y + skip * u
    return y if gate is None else y * gate * torch.sigmoid(gate), state


def random_inputs(
    batch: int, length: int, channels: int, states: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """u, Δ, A, B and C as they are in a model: steps of 0.001 to 0.1 and more, A from -1 to -16."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=dtype)

    steps = 0.05 * normal(batch, length, channels).exp()
    rates = -16 * torch.rand(channels, states, generator=draw, dtype=dtype)
    inputs = [normal(batch, length, channels), steps, rates, normal(batch, length, states)]
    return [*inputs, normal(batch, length, states)]


Scan = Callable[..., tuple[Tensor, Tensor]]


def values_and_gradients(
    function: Scan, inputs: list[Tensor], change: Callable[[Tensor], Tensor] = lambda x: x
) -> list[Tensor]:
    """Both outputs, and the gradients of all inputs for random gradients of both outputs, all of them changed."""
    leaves = [change(x.detach().clone()).requires_grad_() for x in inputs]
    outputs = function(*leaves)
    draw = torch.Generator().manual_seed(1)
    given = [torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.dtype) for x in outputs]
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, leaves, [*map(change, given)]))]


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float = TOLERANCE) -> None:
    """The largest error is within the tolerance of the largest value."""
    for got, wanted in zip(found, expected, strict=True):
        assert got.shape == wanted.shape
        error = (got.double() - wanted.double()).abs().max()
        assert error <= tolerance * wanted.abs().max() + 1e-30


def assert_exact(form: Scan, true_form: Scan, inputs: list[Tensor]) -> None:
    """What a form gives in float32 is, in float64, what inputs within the tolerance of these would give.

    Where a sum nearly cancels, as one over two states may, an error small beside its terms is large beside the sum. How
    much cancels is seen by changing every input a little.
    """
    doubled = [x.double() for x in inputs]
    expected = values_and_gradients(true_form, doubled)
    draw = torch.Generator().manual_seed(2)

    def changed(x: Tensor) -> Tensor:
        return x * (1 + TOLERANCE * (2 * torch.rand(x.shape, generator=draw, dtype=x.dtype) - 1))

    neighbours = [values_and_gradients(true_form, doubled, changed) for _ in range(4)]
    for i, (got, wanted) in enumerate(zip(values_and_gradients(form, inputs), expected, strict=True)):
        assert got.shape == wanted.shape
        cancelled = max((neighbour[i] - wanted).abs().max() for neighbour in neighbours)
        assert (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max() + cancelled + 1e-30


SHAPES = st.tuples(
    st.integers(1, 3),
    st.integers(1, 2 * CHUNK + 2),
    st.sampled_from([1, 2, 5, 31, 64, TASK_CHANNELS - 1, TASK_CHANNELS, TASK_CHANNELS + 1, 300]),
    st.sampled_from([1, 2, 4, 7, 16, 17]),
)


@pytest.mark.parametrize("form", FORMS)
@given(shape=SHAPES, seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_values_and_gradients_are_those_of_the_recurrence(
    form: str, shape: tuple[int, int, int, int], seed: int
) -> None:
    assert_exact(FORMS[form], reference, random_inputs(*shape, seed=seed))


@pytest.mark.parametrize(
    ("form", "shape", "seed"), [("compiled", (1, 1, 1, 4), 1), ("unbind", (1, 1, 64, 1), 607355)]
)
def test_a_sum_that_cancels_is_judged_by_its_terms(
    form: str, shape: tuple[int, int, int, int], seed: int
) -> None:
    assert_exact(FORMS[form], reference, random_inputs(*shape, seed=seed))


def test_an_error_beyond_the_tolerance_is_seen() -> None:
    def wrong(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        y, last = recurrence(*inputs)
        return y * (1 + 4 * TOLERANCE), last

    with pytest.raises(AssertionError):
        assert_exact(wrong, reference, random_inputs(2, 20, 8, 4))


@given(shape=SHAPES, seed=st.integers(0, 2**31), options=st.tuples(*[st.booleans()] * 4))
@settings(max_examples=60, deadline=None)
def test_so_are_they_with_skip_gate_bias_and_softplus(
    shape: tuple[int, int, int, int], seed: int, options: tuple[bool, bool, bool, bool]
) -> None:
    _, with_gate, _, softplus = options
    inputs = random_inputs(*shape, seed=seed)
    optional = [inputs[2][:, 0].sin(), inputs[0].flip(1), inputs[1][0, 0]]
    chosen = [x for x, wanted in zip(optional, options[:3], strict=True) if wanted]

    def unpacked(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, *rest: Tensor) -> tuple:
        remaining = iter(rest)
        skip, gate, bias = (next(remaining) if wanted else None for wanted in options[:3])
        return u, dt, a, b, c, skip, gate, bias

    def ours(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        u, dt, a, b, c, skip, gate, bias = unpacked(*tensors)
        u, dt, b, c = (x.transpose(1, 2) for x in (u, dt, b, c))
        gate = gate.transpose(1, 2) if with_gate else None
        y, last = selective_scan(u, dt, a, b, c, skip, gate, bias, softplus, return_last_state=True)
        return y.transpose(1, 2), last

    def expected(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return reference_with_options(*unpacked(*tensors), softplus=softplus)

    assert_exact(ours, expected, [*inputs, *chosen])


def test_without_the_last_state_only_the_output_is_returned() -> None:
    u, dt, a, b, c = random_inputs(2, 20, 8, 4)
    arguments = [u.mT, dt.mT, a, b.mT, c.mT]
    y, last = selective_scan(*arguments, return_last_state=True)
    assert torch.equal(selective_scan(*arguments), y)
    assert y.shape == (2, 8, 20) and last.shape == (2, 8, 4)


@pytest.mark.parametrize("length", [1, CHUNK, CHUNK + 3])
def test_gradients_and_gradients_of_gradients_are_derivatives(length: int) -> None:
    inputs = [x.requires_grad_() for x in random_inputs(2, length, 3, 2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(recurrence, inputs)
    if length == 1 or length > CHUNK:
        assert torch.autograd.gradgradcheck(recurrence, inputs)


def test_one_input_may_be_computed_from_another() -> None:
    def summed(form: Callable[..., tuple[Tensor, Tensor]], u: Tensor, a: Tensor) -> Tensor:
        y, last = form(u, F.softplus(u), a, u[..., :4], u[..., 4:])
        return y.square().sum() + last.sum()

    a = -torch.rand(8, 4, dtype=torch.float64)
    u = torch.randn(1, 20, 8, dtype=torch.float64, requires_grad=True)
    for create_graph in (False, True):
        found, wanted = (
            torch.autograd.grad(summed(form, u, a), u, create_graph=create_graph)[0]
            for form in (recurrence, reference)
        )
        torch.testing.assert_close(found, wanted)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_any_number_of_threads_and_every_repetition_give_the_same_bits() -> None:
    inputs = random_inputs(3, 80, TASK_CHANNELS + 50, 16)
    with threads(1):
        expected = values_and_gradients(recurrence, inputs)
    for count in (1, 2, 3, 5):
        with threads(count):
            found = values_and_gradients(recurrence, inputs)
        assert all(map(torch.equal, found, expected))


def test_the_compiled_exponential_is_right_to_the_last_place() -> None:
    x = np.concatenate([np.linspace(-86.9, 88.722, 20_000), np.linspace(-1, 1, 20_000)]).astype(np.float32)
    found = np.array([exp_float32(value) for value in x], np.float64)
    expected = np.exp(x.astype(np.float64))
    assert np.abs(found / expected - 1).max() < np.finfo(np.float32).eps
    special = [
        exp_float32(np.float32(value)) for value in (-np.inf, -100, 0, 88.73, 88.9, 100, np.inf, np.nan)
    ]
    np.testing.assert_array_equal(special, [0, 0, 1, *[np.inf] * 4, np.nan])


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_input_that_is_not_a_number_disappears(which: int, value: float) -> None:
    inputs = random_inputs(1, 20, 4, 2)
    inputs[which][(0,) * inputs[which].ndim] = value
    found = values_and_gradients(recurrence, inputs)
    assert any(not x.isfinite().all() for x in found)
    y = recurrence(*inputs)[0]
    assert torch.equal(y.isnan(), reference(*inputs)[0].isnan())


def test_an_infinite_b_makes_no_gradient_of_c_nan_that_is_infinite() -> None:
    inputs = random_inputs(1, 20, 1, 2)
    inputs[3][0, 5, 0] = np.inf
    found, expected = (values_and_gradients(form, inputs)[-1] for form in (recurrence, reference))
    assert torch.equal(found.isnan(), expected.isnan()) and found.isinf().any()


def test_states_that_fade_become_zero_instead_of_subnormal() -> None:
    u, dt, a, b, c = random_inputs(1, 600, 8, 4)
    u[:, 8:] = 0
    last = recurrence(u, dt.clamp(min=0.05), a.clamp(max=-4), b, c)[1]
    assert (last == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    u, dt, a, b, c = random_inputs(2, 40, 24, 8)
    u, dt, b, c = (x.to(dtype) for x in (u, dt, b, c))
    y, last = selective_scan(u.mT, dt.mT, a, b.mT, c.mT, return_last_state=True)
    wanted_y, wanted_last = reference(*(x.double() for x in (u, dt, a, b, c)))
    stock_y, stock_last = inspect.unwrap(mamba_selective_scan)(
        u.mT, dt.mT, a, b.mT, c.mT, return_last_state=True
    )
    assert (y.dtype, last.dtype) == (stock_y.dtype, stock_last.dtype) == (dtype, torch.float32)
    assert_near([last], [wanted_last])
    assert torch.equal(y.mT, wanted_y.float().to(dtype)) or (
        (y.mT - wanted_y).abs().max() <= (stock_y.mT - wanted_y).abs().max()
    )


def test_backward_keeps_no_state_per_position() -> None:
    inputs = [x.requires_grad_() for x in random_inputs(2, 128, 64, 16)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        recurrence(*inputs)
    own = sum(x.numel() for x in inputs)
    assert sum(kept) == own + 2 * (128 // CHUNK) * 64 * 16


def test_shapes_that_do_not_fit_are_refused() -> None:
    u, dt, a, b, c = random_inputs(2, 10, 6, 4)
    for wrong in (
        [u, dt[:1], a, b, c],
        [u, dt, a, b[:, :9], c],
        [u, dt, a[:5], b, c],
        [u, dt, a, b, c[..., :1]],
    ):
        with pytest.raises(ValueError, match="do not belong together"):
            recurrence(*wrong)
    with pytest.raises(ValueError, match="or are empty"):
        recurrence(u[:, :0], dt[:, :0], a, b[:, :0], c[:, :0])


def test_no_sequences_have_no_output_and_add_nothing_to_a_gradient() -> None:
    found = values_and_gradients(
        recurrence, [x[:0] if x.ndim == 3 else x for x in random_inputs(2, 10, 6, 4)]
    )
    y, last, _, _, rates, _, _ = found
    assert y.shape == (0, 10, 6) and last.shape == (0, 6, 4)
    assert torch.equal(rates, torch.zeros(6, 4))


def test_a_compiled_model_gets_the_form_that_torch_can_see_into() -> None:
    inputs = random_inputs(2, 6, 8, 4)
    torch.compiler.reset()
    compiled = torch.compile(recurrence, backend="aot_eager", fullgraph=True)
    assert_near(values_and_gradients(compiled, inputs), values_and_gradients(reference, inputs))

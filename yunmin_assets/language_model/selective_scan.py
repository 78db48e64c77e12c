"""The selective scan of Mamba-1 on a CPU, exact and linear in the length.

transformers computes the recurrence of Mamba-1 (arXiv 2312.00752) in a Python loop that indexes two tensors
of shape [batch, channels, length, states]. Backward, every index fills a tensor of that shape with zeros, so a
training step takes time with the square of the length. `install_cpu_scan` puts `selective_scan` in its place
for tensors on a CPU; on other devices transformers' own function, with its fused kernels, is called as before.
Mamba-2 has another algorithm and keeps it.

Where the packages of fused kernels (mamba_ssm, causal_conv1d) are installed, transformers calls them whatever the
device, and they refuse tensors on a CPU. So their functions, those of Mamba-2 too, take transformers' plain PyTorch
form for such tensors.

The same function in two forms, chosen by `recurrence`:

- compiled (`selective_scan_kernels`): the rule. float64 stays float64, everything else is computed in float32,
  bfloat16 too. The first call of a process loads the kernels from numba's disk cache; the first one ever
  compiles them, some 7 s. Results are the same bits for any number of threads.
- `scan_by_unbind`: the same loop in torch over `unbind`, whose backward pass stacks once instead of filling
  once per position. For what a compiled kernel cannot see into: torch.compile, tensor subclasses, and
  gradients of gradients. torch.func (grad, vmap) fails on the compiled form and is not seen; call this one for it.

Price: the compiled form keeps one state per 16 positions for the backward pass, [batch, length / 16, channels,
states], which at 16 states is the memory of one activation; transformers keeps three tensors of 16 activations.
"""

import functools
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yunmin_assets.language_model import selective_scan_kernels as kernels

logger = logging.getLogger(__name__)

REPLACED = "mamba_selective_scan"
"""The function in transformers' modules that is replaced. Its copies there are equal, letter by letter."""
HAVE_THE_SCAN = ("mamba", "falcon_mamba")
"""Model types whose scan is replaced."""
MODULES = {
    "mamba": "transformers.models.mamba.modeling_mamba",
    "falcon_mamba": "transformers.models.falcon_mamba.modeling_falcon_mamba",
    "mamba2": "transformers.models.mamba2.modeling_mamba2",
}
"""Model type → where it finds its functions."""
FUSED = (
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "mamba_inner_fn",
    "mamba_selective_state_update",
    "mamba2_chunk_scan",
    "mamba2_selective_state_update",
    "mamba2_split_conv1d_scan_combined",
)
"""The functions there for which transformers takes a fused kernel when its package is installed."""

ELEMENTS_PER_THREAD = 1 << 17
"""Terms of the recurrence, some 0.1 ms of work; a thread is not woken for less."""


def install_cpu_scan(model_type: str, *, is_needed: bool = True) -> None:
    """Let all models of a type in this process scan with `selective_scan` where their tensors are on a CPU.

    A mixer looks its functions up by name in its module; this puts others under the names of the scan and of what
    has a fused kernel. Nothing else in transformers is changed. Calling it again, or for a type without such
    functions, does nothing.

    Args:
        model_type: As in the model's configuration.
        is_needed: Whether models are to run on a CPU. If not, a scan that cannot be replaced is left as it is.

    Raises:
        RuntimeError: transformers no longer has the scan, or it takes other arguments. Better than to
            train on, hundreds of times slower.
    """
    if model_type not in MODULES:
        return
    module = import_module(MODULES[model_type])
    for name in FUSED:
        if hasattr(module, name):
            _put_in_place(module, name, on_cpu=inspect.unwrap(getattr(module, name)))
    if model_type not in HAVE_THE_SCAN:
        return
    stock = getattr(module, REPLACED, None)
    expected = list(inspect.signature(selective_scan).parameters)
    found = list(inspect.signature(stock).parameters) if callable(stock) else None
    if found == expected:
        _put_in_place(module, REPLACED, on_cpu=selective_scan)
    elif is_needed:
        raise RuntimeError(
            f"{module.__name__}.{REPLACED} of this transformers takes {found}, not {expected}: "
            f"adapt yunmin_assets/language_model/selective_scan.py, or install the version in constraints.txt"
        )


def _put_in_place(module: ModuleType, name: str, on_cpu: Callable[..., Any]) -> None:
    """Let a function of a module be another where its first argument is on a CPU, unless it is so already."""
    stock: Any = getattr(module, name)
    if getattr(stock, "knows_the_cpu", False):
        return

    @functools.wraps(stock)
    def by_device(first: Tensor, *arguments: Any, **options: Any) -> Any:
        return (on_cpu if first.device.type == "cpu" else stock)(first, *arguments, **options)

    by_device.knows_the_cpu = True  # type: ignore[attr-defined]
    setattr(module, name, by_device)


def selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803 (the names of transformers' function)
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    use_mambapy: bool = False,
    use_associative_scan: bool = False,
    **kwargs: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """What transformers' `mamba_selective_scan` computes, with the same arguments.

    Args:
        hidden_states: [batch, channels, length], the input of the recurrence.
        dt: [batch, channels, length], steps before bias and softplus.
        A: [channels, states].
        B: [batch, states, length].
        C: [batch, states, length].
        D: [channels], weight of the input in the output.
        z: [batch, channels, length], gate of the output.
        delta_bias: [channels], added to `dt`.
        delta_softplus: Whether softplus makes the steps positive.
        return_last_state: Also return the states after the last position, [batch, channels, states].
        use_mambapy: Chooses an algorithm in transformers; no effect here.
        use_associative_scan: As `use_mambapy`.
        **kwargs: No effect, as in transformers.

    Returns:
        [batch, channels, length], laid out channels last as the projection that follows wants it.

    Raises:
        ValueError: Shapes do not belong together.
    """
    u, steps = hidden_states.transpose(1, 2).contiguous(), dt.transpose(1, 2).contiguous()
    if delta_bias is not None:
        steps = steps + delta_bias.to(steps.dtype)
    if delta_softplus:
        steps = F.softplus(steps)
    y, last = recurrence(u, steps, A, B.transpose(1, 2), C.transpose(1, 2))
    y = y.to(u.dtype)
    if D is not None:
        y = y + u * D
    if z is not None:
        y = y * F.silu(z.transpose(1, 2))
    y = y.transpose(1, 2)
    return (y, last) if return_last_state else y


def recurrence(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """hₜ = exp(Δₜ A) hₜ₋₁ + Δₜ uₜ Bₜ and yₜ = Cₜ hₜ, from h = 0.

    Args:
        u: [batch, length, channels], input.
        dt: [batch, length, channels], Δ.
        a: [channels, states].
        b: [batch, length, states].
        c: [batch, length, states].

    Returns:
        y, [batch, length, channels], and the last h, [batch, channels, states]; float64 if an argument is,
        else float32.

    Raises:
        ValueError: Shapes do not belong together.
    """
    _require_fitting_shapes(u, dt, a, b, c)
    wanted = torch.float64 if torch.float64 in {x.dtype for x in (u, dt, a, b, c)} else torch.float32
    u, dt, a, b, c = (x.to(wanted) for x in (u, dt, a, b, c))
    is_transparent = torch.compiler.is_compiling() or any(
        type(x) not in (Tensor, nn.Parameter) for x in (u, dt, a, b, c)
    )
    if is_transparent or not len(u):
        return scan_by_unbind(u, dt, a, b, c)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (u, dt, a, b, c)):
        return _CompiledScan.apply(u, dt, a, b, c)
    y, last, _ = _run_forward(u, dt, a, b, c, keep_states=False)
    return y, last


def scan_by_unbind(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrence` in torch operations. Keeps three tensors [batch, length, channels, states] for backward."""
    decays = torch.exp(dt[..., None] * a).unbind(1)
    inputs = ((dt * u)[..., None] * b[:, :, None]).unbind(1)
    state = torch.zeros_like(inputs[0])
    outputs = []
    for decay, added, weights in zip(decays, inputs, c.unbind(1), strict=True):
        state = decay * state + added
        outputs.append((state @ weights[..., None])[..., 0])
    return torch.stack(outputs, dim=1), state


class _CompiledScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        y, last, kept = _run_forward(u, dt, a, b, c, keep_states=True)
        ctx.save_for_backward(u, dt, a, b, c, kept)
        return y, last

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: these gradients will be differentiated
            return _differentiable_gradients(inputs, ctx.needs_input_grad, dy, dlast)
        return _run_backward(inputs, kept, dy, dlast)


def _differentiable_gradients(
    inputs: Sequence[Tensor], needed: Sequence[bool], dy: Tensor, dlast: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of those inputs that need one, by `scan_by_unbind`."""
    inputs = [x.view_as(x) for x in inputs]  # one input's gradient is not what another owes to it
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    outputs = scan_by_unbind(*inputs)
    gradients = iter(
        torch.autograd.grad(outputs, wanted, (dy, dlast), create_graph=True, materialize_grads=True)
    )
    return tuple(next(gradients) if need else None for need in needed)


def _run_forward(
    u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, *, keep_states: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, last states and, if they are to be kept, the states from which `_run_backward` replays."""
    batch, length, channels = u.shape
    states = a.shape[1]
    chunks = -(-length // kernels.CHUNK) if keep_states else 0
    y = u.new_empty(u.shape)
    kept, last = u.new_empty(batch, chunks, states, channels), u.new_empty(batch, states, channels)
    _run(kernels.forward, (u, dt, a.T, b, c), (y, kept, last))
    return y, last.transpose(1, 2), kept


def _run_backward(inputs: Sequence[Tensor], kept: Tensor, dy: Tensor, dlast: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the five inputs."""
    u, dt, a, b, c = inputs
    batch, _, channels = u.shape
    blocks = kernels.task_count(1, channels)
    du, ddt, drates = u.new_empty(u.shape), u.new_empty(u.shape), u.new_empty(batch, *a.T.shape)
    db, dc = u.new_empty(blocks, *b.shape), u.new_empty(blocks, *c.shape)
    arguments = (u, dt, a.T, b, c, kept, dy, dlast.transpose(1, 2))
    _run(kernels.backward, arguments, (du, ddt, drates, db, dc))
    return du, ddt, _sum_in_order(drates).T, _sum_in_order(db), _sum_in_order(dc)


def _run(kernel: Callable[..., None], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Run all tasks of a kernel on as many threads as torch uses; who runs which does not show."""
    if not kernel.signatures:  # type: ignore[attr-defined]
        logger.info("loading the compiled selective scan; a first run compiles it (some 7 s, then cached)")
    arrays = [x.detach().contiguous().numpy() for x in inputs] + [x.numpy() for x in outputs]
    u, rates = arrays[0], arrays[2]
    batch, _, channels = u.shape
    tasks = kernels.task_count(batch, channels)
    threads = max(1, min(torch.get_num_threads(), tasks, u.size * rates.shape[0] // ELEMENTS_PER_THREAD))
    cuts = [tasks * thread // threads for thread in range(threads + 1)]
    others = [
        _pool(os.getpid()).submit(kernel, cuts[thread], cuts[thread + 1], *arrays)
        for thread in range(1, threads)
    ]
    kernel(cuts[0], cuts[1], *arrays)
    for other in others:
        other.result()


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process; those of its parent are not there after a fork. Idle ones sleep."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="selective-scan")


def _sum_in_order(parts: Tensor) -> Tensor:
    """The sum over the first dimension, in the same order for any number of threads."""
    return functools.reduce(torch.add, parts.unbind(0))


def _require_fitting_shapes(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
    """Compiled code does not look where it writes."""
    fits = u.ndim == 3 and a.ndim == 2 and 0 not in (*u.shape[1:], a.shape[1])
    if fits:
        (batch, length, channels), states = u.shape, a.shape[1]
        expected = [(batch, length, channels), (channels, states), *[(batch, length, states)] * 2]
        fits = [tuple(x.shape) for x in (dt, a, b, c)] == expected
    if not fits:
        shapes = [tuple(x.shape) for x in (u, dt, a, b, c)]
        raise ValueError(f"shapes of u, Δ, A, B and C do not belong together, or are empty: {shapes}")

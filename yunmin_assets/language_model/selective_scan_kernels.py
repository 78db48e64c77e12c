"""The compiled recurrence of Mamba-1 and its gradients, for `selective_scan`.

For every sequence, channel d and state n, with step Δ (`dt`) and input u, the recurrence of arXiv 2312.00752
section 3 is

    hₜ = exp(Δₜ Aₙ) hₜ₋₁ + Δₜ uₜ Bₜₙ        yₜ = Σₙ Cₜₙ hₜ

Channels lie side by side in memory and are the innermost loop, so the compiler makes vector code of it for any
number of states. A *task* is one sequence and up to `TASK_CHANNELS` channels; tasks share no output, and their
sums run in a fixed order, so results do not depend on who runs them. Every kernel releases the GIL.

The backward pass does not keep all states. The forward pass leaves one state per `CHUNK` positions, from
which the backward pass replays a chunk at a time. Scratch space of a thread:
2 · `CHUNK` · `TASK_CHANNELS` · N values (256 KiB at 16 states), which fits the second-level cache.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

from yunmin_assets.compiling import HAS_AVX512  # noqa: F401  asks for wide vectors before any kernel

# mypy: allow-untyped-defs
# numba infers the types; the docstrings state them.

CHUNK = 16
"""Positions between two states that are kept: as much memory as `u` has, times N / 16."""
TASK_CHANNELS = 128

F32, I32 = np.float32, np.int32

LOG2_E = F32(1.4426950408889634)
LN_2_HIGH, LN_2_LOW = F32(0.693359375), F32(-2.12194440e-4)  # their sum is ln 2; the first has 9 bits
ROUNDER = F32(3 * 2**22 + 126)
"""Added to a float32, it leaves the nearest integer in the lowest bits, here with the bias of an exponent less 1."""
EXPONENT_AT = I32(23)
EXP_IS_ZERO_BELOW, EXP_IS_INFINITE_ABOVE = F32(-86.98), F32(88.8)
SMALLEST_NORMAL = np.finfo(F32).tiny
ZERO, ONE, INFINITY = F32(0), F32(1), F32(np.inf)
P0, P1, P2, P3, P4, P5 = map(
    F32,
    (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
)

exact = njit(cache=True, nogil=True, fastmath={"contract"})
"""Multiplication and addition may become one instruction, which rounds once instead of twice."""
kernel = njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
"""Sums may also be made in parallel parts. Infinities and NaN stay what they are."""
part_of_kernel = njit(inline="always")
"""Copied into the kernel, where the compiler sees that its scratch arrays do not overlap."""


@exact
def exp_float32(x):
    """eˣ within one unit in the last place, without branches or calls, so that it becomes vector code.

    Cephes' `expf`: x = k ln 2 + r, a polynomial for eʳ, and k goes to the exponent, less 1 so that it is in range
    up to the largest number. Results below 1.7 · 10⁻³⁸ are 0; NaN stays NaN.
    """
    shifted = x * LOG2_E + ROUNDER
    k = shifted - ROUNDER
    r = (x - k * LN_2_HIGH) - k * LN_2_LOW
    polynomial = ((((P0 * r + P1) * r + P2) * r + P3) * r + P4) * r + P5
    exp_r = (polynomial * r * r + r) + ONE
    half_power_of_two = I32(F32(shifted).view(np.int32) << EXPONENT_AT).view(np.float32)
    half = exp_r * half_power_of_two
    result = ZERO if x < EXP_IS_ZERO_BELOW else half + half
    return INFINITY if x > EXP_IS_INFINITE_ABOVE else result


def exponential(x):
    """eˣ in the type of x."""
    return exp_float32(x) if isinstance(x, np.float32) else math.exp(x)


@overload(exponential, jit_options={"nogil": True})
def _compile_exponential(x):
    if x == types.float32:
        return lambda x: exp_float32(x)
    return lambda x: math.exp(x)


@exact
def without_subnormal(x):
    """x, or 0 where it is so small that the processor would need a hundred cycles for every operation on it.

    States and gradients fade to such numbers where the input is 0, as in padding.
    """
    return ZERO if abs(x) < SMALLEST_NORMAL else x


@kernel
def task_count(batch, channels):
    """Tasks of a batch."""
    return batch * ((channels + TASK_CHANNELS - 1) // TASK_CHANNELS)


@kernel
def place_of(task, channels):
    """Sequence, number of the block of channels, first channel and end of a task."""
    blocks = (channels + TASK_CHANNELS - 1) // TASK_CHANNELS
    block = task % blocks
    first = block * TASK_CHANNELS
    return task // blocks, block, first, min(first + TASK_CHANNELS, channels)


@kernel
def forward(first_task, end_task, u, dt, rates, b, c, y, kept, last):
    """Run tasks: fills y, the last states and, if there is room, a state per chunk.

    u, dt, y: [batch, length, channels]; rates (A): [states, channels]; b, c: [batch, length, states];
    kept: [batch, chunks or 0, states, channels]; last: [batch, states, channels]. All of one float type.
    """
    length, channels = u.shape[1:]
    states = np.empty((rates.shape[0], TASK_CHANNELS), u.dtype)
    drive = np.empty(TASK_CHANNELS, u.dtype)
    for task in range(first_task, end_task):
        sequence, _, first, end = place_of(task, channels)
        width = end - first
        states[:] = 0
        for t in range(length):
            if kept.shape[1] > 0 and t % CHUNK == 0:
                kept[sequence, t // CHUNK, :, first:end] = states[:, :width]
            step, out = dt[sequence, t, first:end], y[sequence, t, first:end]
            multiply(step, u[sequence, t, first:end], drive)
            out[:] = 0
            for n in range(rates.shape[0]):
                rate, state = rates[n, first:end], states[n]
                b_n, c_n = b[sequence, t, n], c[sequence, t, n]
                for d in range(width):
                    new = without_subnormal(exponential(step[d] * rate[d]) * state[d] + drive[d] * b_n)
                    state[d] = new
                    out[d] += new * c_n
        last[sequence, :, first:end] = states[:, :width]


@kernel
def backward(first_task, end_task, u, dt, rates, b, c, kept, dy, dlast, du, ddt, drates, db, dc):
    """Run tasks: fills the gradients, given those of y (`dy`) and of the last states (`dlast`).

    Shapes as in `forward`; drates: [batch, states, channels], to be summed over the batch;
    db, dc: [blocks of channels, batch, length, states], to be summed over the blocks.
    """
    length, channels = u.shape[1:]
    n_states = rates.shape[0]
    states = np.empty((CHUNK + 1, n_states, TASK_CHANNELS), u.dtype)
    decays = np.empty((CHUNK, n_states, TASK_CHANNELS), u.dtype)
    dstate = np.empty((n_states, TASK_CHANNELS), u.dtype)
    task_rates, task_drates = np.empty_like(dstate), np.empty_like(dstate)
    drive = np.empty(TASK_CHANNELS, u.dtype)
    for task in range(first_task, end_task):
        sequence, block, first, end = place_of(task, channels)
        dstate[:, : end - first] = dlast[sequence, :, first:end]
        task_rates[:, : end - first] = rates[:, first:end]
        task_drates[:] = 0
        for start in range((length - 1) // CHUNK * CHUNK, -1, -CHUNK):
            stop = min(start + CHUNK, length)
            states[0, :, : end - first] = kept[sequence, start // CHUNK, :, first:end]
            for t in range(start, stop):
                step = dt[sequence, t, first:end]
                multiply(step, u[sequence, t, first:end], drive)
                replay(
                    step, drive, task_rates, b[sequence, t],
                    states[t - start], states[t - start + 1], decays[t - start],
                )  # fmt: skip
            for t in range(stop - 1, start - 1, -1):
                step_back(
                    u[sequence, t, first:end], dt[sequence, t, first:end], drive,
                    task_rates, b[sequence, t], c[sequence, t],
                    states[t - start], states[t - start + 1], decays[t - start],
                    dy[sequence, t, first:end], dstate,
                    du[sequence, t, first:end], ddt[sequence, t, first:end],
                    task_drates, db[block, sequence, t], dc[block, sequence, t],
                )  # fmt: skip
        drates[sequence, :, first:end] = task_drates[:, : end - first]


@part_of_kernel
def multiply(left, right, product):
    """Fill the beginning of `product`."""
    for d in range(left.size):
        product[d] = left[d] * right[d]


@part_of_kernel
def replay(step, drive, rates, b, before, after, decays):
    """One position of the recurrence again, keeping the states after it and the decays."""
    for n in range(b.size):
        rate, old, new, decay, b_n = rates[n], before[n], after[n], decays[n], b[n]
        for d in range(step.size):
            factor = exponential(step[d] * rate[d])
            decay[d] = factor
            new[d] = without_subnormal(factor * old[d] + drive[d] * b_n)


@part_of_kernel
def step_back(u, step, drive, rates, b, c, before, after, decays, dy, dstate, du, dstep, drates, db, dc):
    """The chain rule at one position.

    `dstate` is the gradient of the states after this position, without what this position's output adds;
    it becomes the same of the position before. `drates` is added to, the other gradients are filled.
    """
    multiply(step, u, drive)
    du[:] = 0
    dstep[:] = 0
    for n in range(b.size):
        rate, old, new, decay = rates[n], before[n], after[n], decays[n]
        gradient, drate, b_n, c_n = dstate[n], drates[n], b[n], c[n]
        db_n = dc_n = u.dtype.type(0)
        for d in range(step.size):
            dnew = gradient[d] + dy[d] * c_n
            dc_n += dy[d] * new[d]
            db_n += dnew * drive[d]
            du[d] += dnew * b_n  # times the step, at the end
            dold = without_subnormal(dnew * decay[d])
            gradient[d] = dold
            dexponent = dold * old[d]
            drate[d] += dexponent * step[d]
            dstep[d] += dexponent * rate[d]
        db[n], dc[n] = db_n, dc_n
    for d in range(step.size):
        dstep[d] += du[d] * u[d]
        du[d] *= step[d]

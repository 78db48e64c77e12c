"""One form of the scan, once, in a process of its own: `python -m benchmarks.scan_child`. `scan` starts it.

    scan   the scan of one layer, forward and backward, and the error of its gradients against float64
    step   a whole training step of a Mamba-1 with a million parameters: forward, backward, AdamW

A short sequence goes first, so that imports and compilation are not in the figures. Memory is over that of
the process at that moment.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers.models.mamba import modeling_mamba

from benchmarks.measure import Cost, measured, versions
from yunmin_assets.language_model import ModelConfig, build_model
from yunmin_assets.language_model import selective_scan as selective_scan_module

BATCH, CHANNELS, STATES = 8, 256, 16
VOCABULARY = 4000
CHECKED_SEQUENCES = 2
WARM_UP_LENGTH = 16
SECONDS_ENOUGH = 20
"""No further repetition is started after this many seconds."""

STOCK = modeling_mamba.mamba_selective_scan
FORMS = {
    "stock": "transformers' loop over indices",
    "unbind": "the same loop over unbind, in torch",
    "compiled": "compiled with numba: what is used on a CPU",
    "mamba2": "Mamba-2 of the same size, for comparison",
}

Report = dict[str, Any]


def main() -> None:
    """Print a report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["scan", "step"])
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("length", type=int)
    parser.add_argument("repeat", type=int)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.form == "unbind":
        selective_scan_module.recurrence = selective_scan_module.scan_by_unbind
    work: Callable[[str, int], Callable[[], object]]
    work = scan_work if arguments.what == "scan" else step_work
    work(arguments.form, WARM_UP_LENGTH)()
    costs = repeated(work(arguments.form, arguments.length), arguments.repeat)
    best = min(costs, key=lambda cost: cost.cpu_s)
    report = {
        **asdict(best),
        "wall_s": min(cost.wall_s for cost in costs),
        "cpu_s_of_runs": [round(cost.cpu_s, 4) for cost in costs],
        "extra_mb": costs[0].peak_rss_mb - costs[0].rss_before_mb,
        "versions": versions(["torch", "transformers", "numba"]),
    }
    if arguments.what == "scan":
        report["gradient_error"] = gradient_error(arguments.form, arguments.length)
    print("\n" + json.dumps(report))


def repeated(work: Callable[[], object], repeat: int) -> list[Cost]:
    """The cost of every run, the first of which is the one that grows the process."""
    started = time.perf_counter()
    costs = [measured(work)[1]]
    while len(costs) < repeat and time.perf_counter() - started < SECONDS_ENOUGH:
        costs.append(measured(work)[1])
    return costs


def scan_work(form: str, length: int) -> Callable[[], None]:
    """One scan and its gradients."""
    inputs = scan_inputs(BATCH, length)

    def scan() -> None:
        scan_gradients(form, inputs)

    return scan


def step_work(form: str, length: int) -> Callable[[], float]:
    """One step of training, which returns its loss; the model is new, the ids are random."""
    architecture = "mamba2" if form == "mamba2" else "mamba"
    model = build_model(ModelConfig(architecture=architecture), VOCABULARY, eos_id=0, seed=0).cpu().train()
    if form == "stock":
        modeling_mamba.mamba_selective_scan = STOCK
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(VOCABULARY, (BATCH, length), generator=torch.Generator().manual_seed(0))

    def step() -> float:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def scan_inputs(batch: int, length: int) -> list[Tensor]:
    """Hidden states, Δ, A, B, C, D, gate and the bias of Δ, laid out and sized as in an untrained model."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    rates = -torch.arange(1.0, STATES + 1).expand(CHANNELS, STATES).contiguous()
    bias = torch.log(torch.expm1(torch.logspace(-3, -1, CHANNELS)))
    return [
        normal(batch, CHANNELS, length),
        0.1 * normal(batch, CHANNELS, length),
        rates,
        normal(batch, length, STATES).mT,
        normal(batch, length, STATES).mT,
        torch.ones(CHANNELS),
        normal(batch, length, CHANNELS).mT,
        bias,
    ]


def scan_gradients(form: str, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of all inputs, the gradient of the output being one everywhere."""
    scan: Callable[..., Any] = STOCK if form == "stock" else selective_scan_module.selective_scan
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = scan(*leaves, delta_softplus=True)
    return torch.autograd.grad(output, leaves, torch.ones_like(output))


def gradient_error(form: str, length: int) -> float:
    """The largest error of a gradient over its largest value, against the same in float64."""
    inputs = scan_inputs(CHECKED_SEQUENCES, length)
    found = scan_gradients(form, inputs)
    selective_scan_module.recurrence = selective_scan_module.scan_by_unbind
    exact = scan_gradients("unbind", [x.double() for x in inputs])
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, exact, strict=True))


if __name__ == "__main__":
    main()

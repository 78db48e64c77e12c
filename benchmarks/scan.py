"""Mamba-1 on a CPU: the scan of transformers beside the two forms that replace it.

    python -m benchmarks.scan                                 the scan alone and a whole training step
    python -m benchmarks.scan --what step --lengths 256       the figure with a target

Sizes: batch 8, 256 channels, 16 states; the training step is that of a Mamba-1 with a million parameters and
a vocabulary of 4,000, forward, backward and AdamW. Inputs are random numbers.

Every run is a fresh process, and the forms take turns, so that a busy minute of the machine hurts all alike.
Compared is the smallest number of CPU-seconds. `error` is the largest error of any gradient over the largest
value of that gradient, against float64. Memory is what the process grew by.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import describe_machine, machine_facts, markdown_table, run_fresh

FORMS = {"scan": ["stock", "unbind", "compiled"], "step": ["stock", "unbind", "compiled", "mamba2"]}
LENGTHS = [64, 128, 256, 512]
LONGEST_STOCK = 256
TARGET_LENGTH = 256
TARGET_TIMES = 20
TARGET_ERROR = 1e-5

Report = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks.scan", *(arguments or sys.argv[1:])])
    facts = machine_facts()
    reports = [
        report | {"machine": facts}
        for what in options.what
        for report in compare(what, options.lengths, options.repeat, options.threads, options.stock_up_to)
    ]
    tables = [table(what, [r for r in reports if r["what"] == what]) for what in options.what]
    print(f"`{command}`, {describe_machine(facts)}, {options.threads} threads")
    print("\n" + "\n\n".join([*tables, targets_table(reports)]))
    if not options.markdown:
        print("\n" + "\n".join(map(json.dumps, reports)))
    if options.json:
        options.json.write_text("".join(json.dumps(report) + "\n" for report in reports))


def compare(what: str, lengths: Sequence[int], repeat: int, threads: int, stock_up_to: int) -> list[Report]:
    """One report per length and form; `times_stock` where the stock scan ran at that length."""
    reports = []
    for length in lengths:
        at_length: list[Report] = []
        for form in FORMS[what]:
            if form == "stock" and length > stock_up_to:
                continue
            print(f"{what}, length {length}: {form}", file=sys.stderr)
            measured = run_fresh(
                "benchmarks.scan_child",
                [what, form, str(length), str(repeat), str(threads)],
                environment={"OMP_WAIT_POLICY": "PASSIVE"},  # as definitions.py has it
            )
            at_length.append(
                {"benchmark": "scan", "what": what, "form": form, "length": length, "threads": threads}
                | measured
            )
        stock = next((report for report in at_length if report["form"] == "stock"), None)
        for report in at_length:
            if stock:
                report["times_stock"] = stock["cpu_s"] / report["cpu_s"]
                report["times_stock_wall"] = stock["wall_s"] / report["wall_s"]
        reports += at_length
    return reports


def table(what: str, reports: Sequence[Report]) -> str:
    """Time, memory and error of every form and length, in Markdown."""
    columns: dict[str, Callable[[Report], str]] = {
        "the scan alone" if what == "scan" else "a training step": lambda r: r["form"],
        "T": lambda r: str(r["length"]),
        "CPU ms": lambda r: f"{1000 * r['cpu_s']:,.0f}",
        "wall ms": lambda r: f"{1000 * r['wall_s']:,.0f}",
        "CPU, times stock": lambda r: f"{r['times_stock']:.1f}×" if "times_stock" in r else "",
        "wall, times stock": lambda r: f"{r['times_stock_wall']:.1f}×" if "times_stock" in r else "",
        "memory MB": lambda r: f"{r['extra_mb']:,.0f}",
    }
    if what == "scan":
        columns["error"] = lambda r: f"{r['gradient_error']:.1e}"
    return markdown_table(list(columns), [[cell(report) for cell in columns.values()] for report in reports])


def targets_table(reports: Sequence[Report]) -> str:
    """What was aimed at and what was measured, in Markdown."""
    rows = []
    for report in reports:
        if report["form"] != "compiled":
            continue
        if report["length"] == TARGET_LENGTH and "times_stock" in report:
            for key, unit in (("times_stock", "CPU"), ("times_stock_wall", "wall")):
                name = f"{report['what']} at length {TARGET_LENGTH}, times stock, {unit}"
                reached = report[key] >= TARGET_TIMES
                rows.append([name, f"≥ {TARGET_TIMES}", f"{report[key]:.1f}", _verdict(reached)])
        if "gradient_error" in report:
            error = report["gradient_error"]
            name = f"error of gradients at length {report['length']}"
            rows.append([name, f"≤ {TARGET_ERROR:.0e}", f"{error:.1e}", _verdict(error <= TARGET_ERROR)])
    return markdown_table(["target of the compiled form", "aimed at", "measured", ""], rows)


def _verdict(reached: bool) -> str:
    return "reached" if reached else "NOT REACHED"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scan", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--what", type=_what, default=list(FORMS), help="scan, step or scan,step (default)")
    parser.add_argument("--lengths", type=_lengths, default=LENGTHS, help="default: 64,128,256,512")
    parser.add_argument("--repeat", type=int, default=5, help="runs of every form (default: 5)")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one per usable core"
    )
    parser.add_argument(
        "--stock-up-to", type=int, default=LONGEST_STOCK, help="its time is quadratic (default: 256)"
    )
    parser.add_argument("--json", type=Path, help="also write the JSON lines to this file")
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables only, as docs/models.md has them"
    )
    return parser


def _what(text: str) -> list[str]:
    chosen = text.split(",")
    unknown = sorted(set(chosen) - set(FORMS))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(FORMS)}")
    return chosen


def _lengths(text: str) -> list[int]:
    return sorted({int(number) for number in text.split(",")})


if __name__ == "__main__":
    main()

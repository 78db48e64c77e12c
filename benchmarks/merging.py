"""Merging four models into one: ours beside mergekit, loading everything, and plain reading and writing.

    python -m benchmarks.merging                         four fine-tuned models, then four adapters, of a model of 1 GB
    python -m benchmarks.merging --memory-scale 1,4      memory of ours by the size of the model

The checkpoint is synthetic (see merging_data). mergekit needs a folder of its own, see `merging_peers.txt`; where it is
absent, the table says so. Every run is a fresh process; the tools take turns. Before each run, all that it reads
is read once, so that files come from the operating system's cache, and what others wrote is on the disk.

Seconds begin after the imports and end when the result is on the disk. Extra MB is the largest anonymous memory, which
the parent samples every 10 ms, less that after the imports; "with files" is the peak resident set (VmHWM), less that
after the imports, and includes pages of mapped files, which the operating system can take back. Bytes are those of
system calls. Whether numbers are correctly rounded is found in a process of its own, see merging_rounding.

Needs 14 GB of disk and 8 GB of memory (mergekit in float32: 5 GB), with `--keep` 20 GB of disk.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import REPOSITORY, describe_machine, machine_facts, run_fresh
from benchmarks.merging_child import ADAPTERS, BLOCK, DENSE, DIFFERENCES, TOOLS, WEIGHTS, output
from benchmarks.merging_data import WEIGHT_FILES, write_adapter, write_base, write_tuned
from benchmarks.merging_rounding import Tensors
from benchmarks.merging_tables import comparison_table, memory_table, targets_table
from yunmin_assets.files import new_folder

PEER_FOLDER = REPOSITORY / ".venv" / "merging-peers"
INSTALL_PEERS = ".venv/bin/pip install --no-deps --target .venv/merging-peers -r benchmarks/merging_peers.txt"
PEERS = ("mergekit", "mergekit-float32")
READ_DIFFERENCES = {"ours", "floor"}
KINDS = (DENSE, ADAPTERS)
BYTES_OF_NUMBER = 2

Report = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.keep and options.work is None:
        parser.error("--keep needs --work, the folder to keep")
    command = shlex.join(["python", "-m", "benchmarks.merging", *(arguments or sys.argv[1:])])
    facts = machine_facts()
    if options.keep:
        lines, tables = _measure(options, options.work)
    else:
        with tempfile.TemporaryDirectory(prefix="merging-", dir=options.work) as scratch:
            lines, tables = _measure(options, Path(scratch))
    print(f"`{command}`, {describe_machine(facts)}\n\n" + "\n\n".join(tables))
    lines = [{**line, "machine": facts} for line in lines]
    if not options.markdown:
        print("\n" + "\n".join(map(json.dumps, lines)))
    if options.json:
        options.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _measure(options: argparse.Namespace, folder: Path) -> tuple[list[Report], list[str]]:
    if options.memory_scale:
        sizes = [scale * options.gigabytes for scale in options.memory_scale]
        lines = [line for size in sizes for line in measure_memory(size, options, folder)]
        return lines, [memory_table(lines)]
    lines, tables = [], []
    for kind in options.kinds:
        reports = compare(kind, options, folder)
        lines += reports
        tables.append(comparison_table(kind, reports))
    return lines, [*tables, targets_table(lines)]


def compare(kind: str, options: argparse.Namespace, folder: Path) -> list[Report]:
    """Measure every tool on the same models or adapters: one report per tool, the first for making the differences."""
    write_models(kind, options.gigabytes, folder, len(WEIGHTS))
    sizes = {"base_bytes": stored_bytes(folder / "base"), "input_bytes": stored_bytes(folder / kind)}
    tools = [DIFFERENCES] * bool(READ_DIFFERENCES & {*options.tools}) + options.tools
    about = {"benchmark": "merging", "kind": kind, **sizes}
    reports = {tool: {**about, "tool": tool, "about": TOOLS[tool].about} for tool in tools}
    runs: dict[str, list[Report]] = {tool: [] for tool in tools}
    for turn in range(options.repeat):
        for tool in [tool for tool in tools if not {"absent", "failed"} & reports[tool].keys()]:
            print(f"{kind}, run {turn + 1} of {options.repeat}: {tool}", file=sys.stderr)
            run = run_tool(tool, kind, folder, options.peers)
            if "wall_s" not in run:
                reports[tool] |= run
                continue
            runs[tool].append(run)
            if turn == 0 and tool not in (DIFFERENCES, "floor"):
                reports[tool] |= _rounding(tool, kind, folder)
    for tool in tools:
        if runs[tool]:
            reports[tool] |= summary(runs[tool], sizes["base_bytes"])
    shutil.rmtree(folder / "merged", ignore_errors=True)  # absent, if every tool was
    if not options.keep:
        shutil.rmtree(folder / kind)
        shutil.rmtree(output(DIFFERENCES, kind, folder), ignore_errors=True)
    return list(reports.values())


def measure_memory(gigabytes: float, options: argparse.Namespace, folder: Path) -> list[Report]:
    """Ours with models of one size. The four differences are one, given four times, which saves disk only."""
    reports = []
    here, keep = folder / f"{gigabytes:g}", options.keep
    for kind in options.kinds:
        write_models(kind, gigabytes, here, 1)
        shapes = Tensors(here / "base").shapes.values()
        sizes = {
            "base_bytes": stored_bytes(here / "base"),
            "largest_tensor_bytes": max(map(math.prod, shapes)) * BYTES_OF_NUMBER,
        }
        for tool in (DIFFERENCES, "ours"):
            print(f"{gigabytes:g} GB, {kind}: {tool}", file=sys.stderr)
            run = summary([run_tool(tool, kind, here, PEER_FOLDER)], sizes["base_bytes"])
            reports.append({"benchmark": "merging-memory", "kind": kind, "tool": tool, **sizes, **run})
            if tool == DIFFERENCES:
                _give_all_domains_the_same(output(DIFFERENCES, kind, here), here / kind, keep)
        shutil.rmtree(here / "merged")
        if not keep:
            shutil.rmtree(output(DIFFERENCES, kind, here))
    if not keep:
        shutil.rmtree(here)
    return reports


def write_models(kind: str, gigabytes: float, folder: Path, count: int) -> None:
    """Write the base and so many models or adapters, unless they are there."""
    write = write_tuned if kind == DENSE else write_adapter
    if not (folder / "base").exists():
        with new_folder(folder / "base") as part:
            write_base(part, gigabytes)
    for seed, domain in enumerate([*WEIGHTS][:count], start=1):
        if not (folder / kind / domain).exists():
            print(f"writing {kind} {domain}", file=sys.stderr)
            with new_folder(folder / kind / domain) as part:
                write(folder / "base", part, seed)


def run_tool(tool: str, kind: str, folder: Path, peers: Path) -> Report:
    """One run; of a peer that is absent or breaks, why."""
    shutil.rmtree(output(tool, kind, folder), ignore_errors=True)
    os.sync()
    for inputs in (
        folder / "base",
        output(DIFFERENCES, kind, folder) if tool in READ_DIFFERENCES else folder / kind,
    ):
        read_everything(inputs)
    environment = {"PYTHONPATH": str(peers)} if tool in PEERS else {}
    try:
        run = run_fresh("benchmarks.merging_child", [tool, kind, str(folder)], environment=environment)
    except RuntimeError as error:
        if tool not in PEERS:
            raise
        return {"failed": str(error).splitlines()[-1]}
    return run | {"install": INSTALL_PEERS} if "absent" in run else run


def summary(runs: Sequence[Report], base_bytes: int) -> Report:
    """Smallest and median times, median memory."""
    seconds, cpu_seconds = ([run[key] for run in runs] for key in ("wall_s", "cpu_s"))
    return {
        **runs[0],
        "wall_s": min(seconds),
        "wall_s_median": statistics.median(seconds),
        "wall_s_of_runs": [round(second, 2) for second in seconds],
        "cpu_s": min(cpu_seconds),
        "cpu_s_median": statistics.median(cpu_seconds),
        "cpu_s_of_runs": [round(second, 2) for second in cpu_seconds],
        "extra_anonymous_mb": statistics.median(
            run["peak_anonymous_mb"] - run["anonymous_before_mb"] for run in runs
        ),
        "extra_rss_mb": statistics.median(run["peak_rss_mb"] - run["rss_before_mb"] for run in runs),
        "reads_mapped": runs[0]["bytes_read"] < base_bytes,
    }


def read_everything(folder: Path) -> None:
    """Bring all weights below a folder into the operating system's cache."""
    buffer = bytearray(BLOCK)
    for path in folder.rglob(WEIGHT_FILES):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def stored_bytes(folder: Path) -> int:
    """Size of all weights below a folder."""
    return sum(path.stat().st_size for path in folder.rglob(WEIGHT_FILES))


def _rounding(tool: str, kind: str, folder: Path) -> Report:
    print(f"{kind}, rounding: {tool}", file=sys.stderr)
    report = run_fresh("benchmarks.merging_rounding", [kind, str(folder), str(output(tool, kind, folder))])
    return {key: report[key] for key in ("rounded", "others_kept", "changed_elements")}


def _give_all_domains_the_same(differences: Path, inputs: Path, keep: bool) -> None:
    first, *others = WEIGHTS
    for domain in others:
        (differences / domain).symlink_to(first)
    if not keep:
        shutil.rmtree(inputs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.merging",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    tools = [tool for tool in TOOLS if tool != DIFFERENCES]
    parser.add_argument("--gigabytes", type=float, default=1, help="size of the base (default: 1)")
    parser.add_argument("--kinds", type=_choice(KINDS), default=KINDS, help=f"default: {','.join(KINDS)}")
    parser.add_argument("--tools", type=_choice(tools), default=tools, help=f"default: {','.join(tools)}")
    parser.add_argument("--repeat", type=int, default=3, help="runs of every tool (default: 3)")
    parser.add_argument("--memory-scale", type=_numbers, help="times the size of the base, instead: 1,4")
    parser.add_argument("--work", type=Path, help="where the temporary folder goes")
    parser.add_argument("--keep", action="store_true", help="work in this folder itself and leave the models")
    parser.add_argument("--json", type=Path, help="also write the JSON lines to this file")
    parser.add_argument("--markdown", action="store_true", help="print the tables only")
    parser.add_argument("--peers", type=Path, default=PEER_FOLDER, help=f"default: {PEER_FOLDER}")
    return parser


def _choice(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := sorted(set(names) - set(known)):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return parse


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


if __name__ == "__main__":
    main()

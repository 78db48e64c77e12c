"""The training loader beside its peers, the text column beside JSONL, and memory against the data's size.

    python -m benchmarks.loading --repeat 5              rows of tokens, then texts
    python -m benchmarks.loading --memory-scale 0.5,5    extra memory over so many GB of packed rows

The rows are synthetic (see loading_data); every loader stores them in its own format and delivers batches
of 8 rows as int64, ours as inputs and labels, each [8, 2048], the others as one [8, 2049]. The peers need a
folder of packages of their own, see `loading_peers.txt`; one that is absent is named.

Every run is a fresh process, warmed up; the tools take turns, so that a busy minute of the machine hurts
all alike. Compared is the median of CPU-seconds; the table gives the best beside it. Files come from the
operating system's cache.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.loading_child import LOADERS, PEERS, stored_bytes
from benchmarks.loading_data import SEQ_LEN, TOKEN_TYPE, write_stream
from benchmarks.loading_readers import OURS
from benchmarks.loading_tables import loader_table, memory_table, targets_table
from benchmarks.loading_text import READERS, text_table, write_documents
from benchmarks.measure import MEGABYTE, REPOSITORY, describe_machine, machine_facts, run_fresh

PEER_FOLDER = REPOSITORY / ".venv" / "loading-peers"
INSTALL_PEERS = ".venv/bin/pip install --no-deps --target .venv/loading-peers -r benchmarks/loading_peers.txt"
ENOUGH_CPU_SECONDS = 150
GIGABYTE = 1e9

Report = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks.loading", *(arguments or sys.argv[1:])])
    facts = machine_facts()
    with tempfile.TemporaryDirectory(prefix="loading-", dir=options.scratch) as scratch:
        if options.memory_scale:
            lines = measure_memory(options.memory_scale, Path(scratch))
            table = memory_table(lines)
        else:
            folder = Path(scratch)
            lines = compare(
                options.tools, options.rows, options.repeat, options.enough, options.peers, folder
            )
            texts = [] if options.no_text else [compare_texts(options.text, options.repeat, folder)]
            tables = [loader_table(lines), *(text_table(text["sizes"], text["readers"]) for text in texts)]
            table = "\n\n".join([*tables, targets_table(lines, texts[0] if texts else None)])
            lines += texts
    print(f"`{command}`, {describe_machine(facts)}\n\n{table}")
    lines = [{**line, "machine": facts} for line in lines]
    if not options.markdown:
        print("\n" + "\n".join(map(json.dumps, lines)))
    if options.json:
        options.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


def compare(
    tools: Sequence[str], rows: int, repeat: int, enough_cpu_s: float, peers: Path, folder: Path
) -> list[Report]:
    """Measure every tool on the same rows: one report per tool, in the order of `tools`."""
    write_stream(folder, rows)
    reports = {tool: {"benchmark": "loading", "tool": tool, "about": LOADERS[tool].about} for tool in tools}
    written: dict[str, Report] = {}
    for tool in tools:
        data = LOADERS[tool].data
        if data not in written:
            written[data] = _run("write", tool, folder, peers)
        reports[tool] |= written[data]
        if "absent" in reports[tool]:
            reports[tool]["install"] = INSTALL_PEERS
    present = [tool for tool in tools if not {"absent", "failed"} & reports[tool].keys()]
    runs: dict[str, list[Report]] = {tool: [] for tool in present}
    for _ in range(repeat):
        for tool in present:
            if sum(run["cpu_s"] for run in runs[tool]) < enough_cpu_s:
                run = _run("speed", tool, folder, peers)
                reports[tool] |= {key: value for key, value in run.items() if key in ("failed", "absent")}
                runs[tool] += [run] if "cpu_s" in run else []
    for tool in present:
        if runs[tool]:
            reports[tool] |= _summary(runs[tool]) | _run("order", tool, folder, peers)
    return list(reports.values())


def compare_texts(corpus: Path | None, repeat: int, folder: Path) -> Report:
    """Read the text column of the same documents from JSONL and Parquet."""
    sizes = write_documents(folder, corpus)
    runs: dict[str, list[Report]] = {reader: [] for reader in READERS}
    for _ in range(repeat):
        for reader in READERS:
            runs[reader].append(run_fresh("benchmarks.loading_text", [reader, str(folder)]))
    readers = {reader: _best(of_reader) for reader, of_reader in runs.items()}
    if len({report["characters"] for report in readers.values()}) > 1:
        raise RuntimeError("the readers of texts did not find the same characters")
    return {"benchmark": "loading-text", "sizes": sizes, "readers": readers}


def measure_memory(gigabytes: Sequence[float], folder: Path) -> list[Report]:
    """One epoch of ours, compressed, over data sets of several sizes."""
    reports = []
    for size in gigabytes:
        rows = int(size * GIGABYTE / (SEQ_LEN * TOKEN_TYPE.itemsize))
        with tempfile.TemporaryDirectory(dir=folder) as name:
            here = Path(name)
            write_stream(here, rows)
            _run("write", "ours-1024", here, PEER_FOLDER)
            for tool in ("ours-256", "ours-1024"):
                report = _summary([_run("speed", tool, here, PEER_FOLDER)])
                about = {"benchmark": "loading-memory", "tool": tool, "gigabytes": size}
                reports.append({**about, **report, "packed_bytes": stored_bytes(here / OURS[tool].data)})
    return reports


def _run(action: str, tool: str, folder: Path, peers: Path) -> Report:
    """A report of `loading_child`; of a peer that breaks, why."""
    print(f"{action}: {tool}", file=sys.stderr)
    environment = {"PYTHONPATH": str(peers)} if tool in PEERS else {}
    try:
        return run_fresh("benchmarks.loading_child", [action, tool, str(folder)], environment=environment)
    except RuntimeError as error:
        if tool not in PEERS:
            raise
        return {"failed": str(error).splitlines()[-1]}


def _summary(runs: Sequence[Report]) -> Report:
    """The best run, with tokens per second and memory over torch's beside it."""
    best = _best(runs)
    megatokens = best["rows"] * SEQ_LEN / MEGABYTE
    return {
        **best,
        "mtok_per_cpu_s": megatokens / best["cpu_s"],
        "mtok_per_cpu_s_median": megatokens / best["cpu_s_median"],
        "mtok_per_wall_s": megatokens / statistics.median(run["wall_s"] for run in runs),
        "extra_anonymous_mb": statistics.median(
            run["peak_anonymous_mb"] - run["anonymous_of_torch_mb"] for run in runs
        ),
        "extra_rss_mb": statistics.median(run["peak_rss_mb"] - run["rss_of_torch_mb"] for run in runs),
        "read_amplification": best["bytes_read"] / best["stored_bytes"],
    }


def _best(runs: Sequence[Report]) -> Report:
    """The run with the fewest CPU-seconds, with the median and all of them beside it."""
    seconds = [run["cpu_s"] for run in runs]
    best = min(runs, key=lambda run: run["cpu_s"])
    return {
        **best,
        "cpu_s_median": statistics.median(seconds),
        "cpu_s_of_runs": [round(second, 3) for second in seconds],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loading",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=131_072, help="of 2049 tokens (default: 131072)")
    parser.add_argument("--tools", type=_tools, default=[*LOADERS], help=f"default: {','.join(LOADERS)}")
    parser.add_argument("--repeat", type=int, default=5, help="runs of every tool (default: 5)")
    parser.add_argument(
        "--enough",
        type=float,
        default=ENOUGH_CPU_SECONDS,
        help=f"CPU-seconds after which a tool is not run again (default: {ENOUGH_CPU_SECONDS})",
    )
    parser.add_argument("--text", type=Path, help="folder of JSON lines (default: the synthetic sample)")
    parser.add_argument("--no-text", action="store_true", help="leave the texts out")
    parser.add_argument("--memory-scale", type=_sizes, help="GB of packed rows, instead: 0.5,5")
    parser.add_argument("--scratch", type=Path, help="where the temporary folder goes: about 25 KB per row")
    parser.add_argument("--json", type=Path, help="also write the JSON lines to this file")
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables only, as docs/columnar.md has them"
    )
    parser.add_argument("--peers", type=Path, default=PEER_FOLDER, help=f"default: {PEER_FOLDER}")
    return parser


def _tools(text: str) -> list[str]:
    tools = text.split(",")
    unknown = sorted(set(tools) - set(LOADERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(LOADERS)}")
    return tools


def _sizes(text: str) -> list[float]:
    return sorted({float(number) for number in text.split(",")})


if __name__ == "__main__":
    main()

"""Scoring documents: ours beside the usual ways, with the same small model and the same windows.

    python -m benchmarks.scoring                                    synthetic sample documents
    python -m benchmarks.scoring --corpus FILE.jsonl.zst            real text
    python -m benchmarks.scoring --corpus FILE.jsonl.zst --steps 100 --tools ours,first-128,first-256,first-512

Every run is a fresh process with one thread, warmed up on a few documents; the tools take turns, and the smallest
number of CPU-seconds counts. What is measured begins with texts in memory and ends with a score per document. Losses
are compared per token with scoring one by one.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.measure import cost_columns, describe_machine, machine_facts, markdown_table, run_fresh
from benchmarks.scoring_child import TOOLS
from benchmarks.scoring_data import prepare_model, read_corpus, sample_documents

REFERENCE = "one-by-one"
USUAL = "random-16"
DEFAULT_TOOLS = ("ours", USUAL, REFERENCE)
FASTER_THAN_USUAL, LARGEST_PADDING, LARGEST_DIFFERENCE = 5.0, 1.15, 1e-5
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

Report = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks.scoring", *(arguments or sys.argv[1:])])
    facts = machine_facts()
    with tempfile.TemporaryDirectory() as scratch:
        lines = compare(options, Path(scratch), facts)
    print(f"`{command}`, {describe_machine(facts)}\n\n{comparison_table(lines)}\n\n{targets_table(lines)}")
    if not options.markdown:
        print("\n" + "\n".join(map(json.dumps, lines)))
    if options.json:
        options.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


def compare(options: argparse.Namespace, scratch: Path, machine: Report) -> list[Report]:
    """Run every tool `repeat` times: one report per tool, with what its scores differ from the reference's."""
    documents = (
        read_corpus(options.corpus, options.documents)
        if options.corpus
        else sample_documents(options.documents)
    )
    pq.write_table(documents, scratch / "documents.parquet")
    sizes = {name: getattr(options, name) for name in ("hidden_size", "layers", "vocab_size", "steps")}
    prepare_model(documents, scratch / "model", **sizes)
    runs: dict[str, list[Report]] = {tool: [] for tool in options.tools}
    for turn in range(options.repeat):
        for tool in options.tools:
            print(f"run {turn + 1} of {options.repeat}: {tool}", file=sys.stderr)
            child = [tool, str(scratch), str(options.max_length)]
            runs[tool].append(run_fresh("benchmarks.scoring_child", child, environment=ONE_THREAD))
    corpus = options.corpus.name if options.corpus else "synthetic sample"
    about = {"benchmark": "scoring", "corpus": corpus, "machine": machine}
    about |= {**sizes, "max_length": options.max_length}
    reports = [about | _summary(tool, runs[tool]) for tool in options.tools]
    return _with_differences(reports, scratch)


def _summary(tool: str, runs: Sequence[Report]) -> Report:
    best = min(runs, key=lambda run: run["cpu_s"])
    return {
        "tool": tool,
        "about": TOOLS[tool],
        **best,
        "cpu_s_median": statistics.median(run["cpu_s"] for run in runs),
        "cpu_s_of_runs": [round(run["cpu_s"], 3) for run in runs],
        "tokens_per_cpu_s": best["tokens"] / best["cpu_s"],
    }


def _with_differences(reports: list[Report], scratch: Path) -> list[Report]:
    """Add what each tool's scores are beside those of the reference, or of the first tool without one."""
    tools = [report["tool"] for report in reports]
    reference = np.load(scratch / f"{REFERENCE if REFERENCE in tools else tools[0]}.npy")
    for report in reports:
        own = np.load(scratch / f"{report['tool']}.npy")
        report["largest_difference_per_token"] = float(np.abs(own - reference).max())
        report["rank_correlation"] = rank_correlation(own, reference)
        report["same_half_kept"] = same_half_kept(own, reference)
    return reports


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's, for scores without ties to speak of."""
    ranks = [np.argsort(np.argsort(scores, kind="stable"), kind="stable") for scores in (first, second)]
    return float(np.asarray(np.corrcoef(np.stack(ranks)))[0, 1])


def same_half_kept(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Share of the documents in the middle half by one score that are there by the other, too."""
    quarter = len(first) // 4
    halves = [
        set(np.argsort(scores, kind="stable")[quarter : len(first) - quarter]) for scores in (first, second)
    ]
    return len(halves[0] & halves[1]) / max(len(halves[0]), 1)


def comparison_table(reports: Sequence[Report]) -> str:
    """Speed, memory and agreement of all tools in Markdown, and what they are."""
    columns: dict[str, Callable[[Report], str]] = {
        **cost_columns(reports),
        "tokens/CPU-s": lambda r: f"{r['tokens_per_cpu_s']:,.0f}",
        "padding": lambda r: f"{r['padding']:.2f}×",
        "peak MB (before)": lambda r: f"{r['peak_rss_mb']:,.0f} ({r['rss_before_mb']:,.0f})",
        "largest difference": lambda r: f"{r['largest_difference_per_token']:.1e}",
        "rank correlation": lambda r: f"{r['rank_correlation']:.4f}",
        "same half kept": lambda r: f"{r['same_half_kept']:.1%}",
    }
    rows = [[cell(report) for cell in columns.values()] for report in reports]
    first = reports[0]
    scene = (
        f"{first['corpus']}: {first['documents']:,} documents, {first['tokens']:,} tokens; Mamba-2 of hidden size "
        f"{first['hidden_size']}, {first['layers']} layers, vocabulary {first['vocab_size']:,}, "
        + (f"trained for {first['steps']} steps" if first["steps"] else "random weights")
    )
    notes = [f"- `{report['tool']}`: {report['about']}" for report in reports]
    return "\n".join([scene, "", markdown_table(list(columns), rows), "", *notes])


def targets_table(reports: Sequence[Report]) -> str:
    """What was aimed at, what was measured, and whether it is enough, in Markdown."""
    by_tool = {report["tool"]: report for report in reports}
    rows = []
    if ours := by_tool.get("ours"):
        padding, difference = ours["padding"], ours["largest_difference_per_token"]
        rows.append(["padding", f"≤ {LARGEST_PADDING}", f"{padding:.3f}", padding <= LARGEST_PADDING])
        if REFERENCE in by_tool:
            is_near = difference <= LARGEST_DIFFERENCE
            rows.append(["nats per token from one-by-one", "≤ 1e-5", f"{difference:.1e}", is_near])
        if USUAL in by_tool:
            times = by_tool[USUAL]["cpu_s"] / ours["cpu_s"]
            rows.append([f"times as fast as {USUAL}", "≥ 5", f"{times:.2f}", times >= FASTER_THAN_USUAL])
    verdicts = [[*row[:3], "reached" if row[3] else "NOT REACHED"] for row in rows]
    return markdown_table(["target", "aimed at", "measured", ""], verdicts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="JSONL, .zst or not (default: synthetic documents)")
    parser.add_argument(
        "--documents", type=int, default=600, help="how many at most, from all over the corpus"
    )
    parser.add_argument(
        "--tools", type=_tools, default=DEFAULT_TOOLS, help=f"comma-separated, of {', '.join(TOOLS)}"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument(
        "--steps", type=int, default=0, help="train the model first (default: random weights)"
    )
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--markdown", action="store_true", help="no JSON lines on standard output")
    parser.add_argument("--json", type=Path, help="write the JSON lines to this file")
    return parser


def _tools(names: str) -> list[str]:
    chosen = names.split(",")
    if unknown := sorted(set(chosen) - set(TOOLS)):
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: choose among {', '.join(TOOLS)}")
    return chosen


if __name__ == "__main__":
    main()

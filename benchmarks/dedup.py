"""Deduplication beside its peers on a corpus whose true pairs are all known.

    python -m benchmarks.dedup --corpus FOLDER --repeat 3        speed, memory and what was found
    python -m benchmarks.dedup --corpus FOLDER --scale 1,4,16    the out-of-core path on copies of the corpus

FOLDER holds `corpus.parquet` (id, text, domain) and `truth.parquet` (a, b, jaccard: every pair of documents
at or above the threshold, by exact Jaccard of character 13-grams). The peers need an environment of their
own, see `peers.txt`; one that is absent is named.

Every run is a fresh process, warmed up; the tools take turns, so that a busy minute of the machine hurts
all alike. Compared is the smallest number of CPU-seconds; the table gives the median beside it. What was
found is judged afterwards, outside of the timing.
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

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.dedup_child import OURS
from benchmarks.dedup_peers import NGRAM, PEERS, normalized
from benchmarks.dedup_scale import measure_scales, scale_table
from benchmarks.measure import (
    REPOSITORY,
    cost_columns,
    describe_machine,
    machine_facts,
    markdown_table,
    run_fresh,
)

TOOLS = [*OURS, *PEERS]
PEER_PYTHON = REPOSITORY / ".venv" / "peers" / "bin" / "python"
INSTALL_PEERS = "python3 -m venv .venv/peers && .venv/peers/bin/pip install -r benchmarks/peers.txt"
HARD_PAIRS_BELOW = 0.85
"""Pairs between the threshold and this Jaccard are the ones that are easily missed."""

TIMES_AS_FAST = {
    "datasketch": 35,
    "datasketch-tuned": 35,
    "rensa": 10,
    "rensa-tuned": 10,
    "rensa-hashes": 10,
    "daft": 3,
}
MEGABYTES_PER_CPU_SECOND = 80
SIGNATURE_MEGABYTES_PER_SECOND = 200

Report = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks.dedup", *(arguments or sys.argv[1:])])
    facts = machine_facts()
    if options.scale:
        lines = measure_scales(
            options.corpus, options.scale, options.threshold, options.memory_budget_mb, facts
        )
        table = scale_table(lines)
    else:
        lines = compare(
            options.corpus, options.tools, options.repeat, options.threshold, options.peer_python, facts
        )
        table = comparison_table(lines) + "\n\n" + targets_table(lines)
    print(f"`{command}`, {describe_machine(facts)}\n\n{table}")
    if not options.markdown:
        print("\n" + "\n".join(map(json.dumps, lines)))
    if options.json:
        options.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


def compare(
    corpus: Path, tools: Sequence[str], repeat: int, threshold: float, peer_python: Path, machine: Report
) -> list[Report]:
    """Run every tool `repeat` times and judge what it found: one report per tool, in the order of `tools`."""
    with tempfile.TemporaryDirectory() as scratch:
        runs: dict[str, list[Report]] = {tool: [] for tool in tools}
        for turn in range(repeat):
            for tool in tools:
                print(f"run {turn + 1} of {repeat}: {tool}", file=sys.stderr)
                runs[tool].append(_run(tool, corpus, threshold, peer_python, Path(scratch)))
        reports = []
        for tool in tools:
            report = _summary(tool, runs[tool]) | {"threshold": threshold, "machine": machine}
            decisions = Path(scratch) / f"{tool}.parquet"
            if decisions.exists():
                report |= judge(pq.read_table(decisions), corpus, threshold)
            reports.append(report)
    return reports


def _run(tool: str, corpus: Path, threshold: float, peer_python: Path, scratch: Path) -> Report:
    arguments = [tool, str(corpus.resolve()), str(threshold), str(scratch / f"{tool}.parquet")]
    if tool in PEERS:
        python = str(peer_python) if peer_python.exists() else sys.executable
        return run_fresh("benchmarks.dedup_child", arguments, python=python)
    environment = {}
    if tool == "signatures":
        environment["NUMBA_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as empty:
        if tool == "first-use":
            environment["NUMBA_CACHE_DIR"] = empty
        return run_fresh("benchmarks.dedup_child", arguments, environment=environment)


def _summary(tool: str, runs: Sequence[Report]) -> Report:
    """The best run, with the median and all CPU-seconds beside it."""
    about = PEERS[tool].about if tool in PEERS else OURS[tool]
    name = {"benchmark": "dedup", "tool": tool, "about": about}
    if "absent" in runs[0]:
        return {**name, "absent": runs[0]["absent"], "install": INSTALL_PEERS}
    best = min(runs, key=lambda run: run["cpu_s"])
    return {
        **name,
        **best,
        "documents_per_cpu_s": best["documents"] / best["cpu_s"],
        "megabytes_per_cpu_s": best["megabytes"] / best["cpu_s"],
        "cpu_s_median": statistics.median(run["cpu_s"] for run in runs),
        "cpu_s_of_runs": [round(run["cpu_s"], 3) for run in runs],
    }


def judge(decisions: pa.Table, corpus: Path, threshold: float) -> Report:
    """What a tool found and what it got wrong.

    Args:
        decisions: id, kept, survivor_id of every document.
        corpus: folder with the texts and the truth.
        threshold: the Jaccard from which on two documents are duplicates.
    """
    from yunmin_assets.dedup import score_against_truth

    truth = pq.read_table(corpus / "truth.parquet")
    score = score_against_truth(decisions, truth, threshold)
    hard = score_against_truth(decisions, truth, threshold, below=HARD_PAIRS_BELOW)
    documents = pq.read_table(corpus / "corpus.parquet", columns=["id", "text"])
    return {
        "true_pairs": score.pairs,
        "pair_recall": score.pair_recall,
        "hard_pairs": hard.pairs,
        "pair_recall_hard": hard.pair_recall,
        "residual_pairs": score.residual_pairs,
        "removed": score.removed,
        "false_removals": score.false_removals,
        "far_from_survivor": far_from_survivor(documents, decisions, threshold),
    }


def far_from_survivor(documents: pa.Table, decisions: pa.Table, threshold: float) -> int:
    """Removed documents whose exact Jaccard to the document that stays is below the threshold.

    Python sets of strings: slow, and independent of every tool.
    """
    texts = dict(zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True))
    removed = decisions.filter(pc.invert(decisions["kept"])).sort_by("survivor_id")
    far = 0
    survivor, survivor_shingles = None, frozenset[str]()
    for row in removed.select(["id", "survivor_id"]).to_pylist():
        if row["survivor_id"] != survivor:
            survivor = row["survivor_id"]
            survivor_shingles = shingles(texts[survivor])
        own = shingles(texts[row["id"]])
        union = len(own | survivor_shingles)
        far += union > 0 and len(own & survivor_shingles) / union < threshold
    return far


def shingles(text: str) -> frozenset[str]:
    """Character 13-grams of the normalised text; the whole text if it is shorter; none if it is empty."""
    seen = normalized(text)
    return frozenset(seen[start : start + NGRAM] for start in range(max(len(seen) - NGRAM, 0) + 1) if seen)


def comparison_table(reports: Sequence[Report]) -> str:
    """Speed, memory and quality of all tools that remove something, in Markdown, and what they are."""
    columns: dict[str, Callable[[Report], str]] = {
        **cost_columns(reports),
        "docs/CPU-s": lambda r: f"{r['documents_per_cpu_s']:,.0f}",
        "MB/CPU-s": lambda r: f"{r['megabytes_per_cpu_s']:.1f}",
        "wall s": lambda r: f"{r['wall_s']:.2f}",
        "peak MB (before)": lambda r: f"{r['peak_rss_mb']:,.0f} ({r['rss_before_mb']:,.0f})",
        "recall": lambda r: f"{r['pair_recall']:.4f}",
        "below .85": lambda r: f"{r['pair_recall_hard']:.4f}",
        "pairs left": lambda r: f"{r['residual_pairs']:,}",
        "removed": lambda r: f"{r['removed']:,}",
        "false": lambda r: f"{r['false_removals'] / max(r['removed'], 1):.1%}",
        "far": lambda r: f"{r['far_from_survivor'] / max(r['removed'], 1):.1%}",
    }
    rows = [[cell(report) for cell in columns.values()] for report in reports if "removed" in report]
    notes = [f"- `{report['tool']}`: {_note(report)}" for report in reports]
    return "\n".join([markdown_table(list(columns), rows), "", *notes])


def targets_table(reports: Sequence[Report]) -> str:
    """What was aimed at, what was measured, and whether it is enough, in Markdown."""
    by_tool = {report["tool"]: report for report in reports if "absent" not in report}
    ours = by_tool.get("ours")
    rows: list[tuple[str, float, float, bool]] = []  # what, measured, target, larger is better
    if ours:
        rows += [
            ("MB per CPU-s, end to end", ours["megabytes_per_cpu_s"], MEGABYTES_PER_CPU_SECOND, True),
            ("pair recall", ours["pair_recall"], 0.999, True),
            ("pair recall below .85", ours["pair_recall_hard"], 0.995, True),
            (
                "true pairs left per 10,000",
                1e4 * ours["residual_pairs"] / max(ours["true_pairs"], 1),
                1,
                False,
            ),
            ("false removals", ours["false_removals"], 0, False),
            ("removed with J < threshold to their survivor", ours["far_from_survivor"], 0, False),
        ]
        rows += [
            (f"times as fast as {peer}", by_tool[peer]["cpu_s"] / ours["cpu_s"], target, True)
            for peer, target in TIMES_AS_FAST.items()
            if peer in by_tool
        ]
    if "signatures" in by_tool:
        speed = by_tool["signatures"]["megabytes_per_cpu_s"]
        rows.append(("signatures, MB/s on one core", speed, SIGNATURE_MEGABYTES_PER_SECOND, True))
    return markdown_table(
        ["target", "aimed at", "measured", ""],
        [
            [what, f"{'≥' if more else '≤'} {target:g}", f"{value:.4g}", _verdict(value, target, more)]
            for what, value, target, more in rows
        ],
    )


def _note(report: Report) -> str:
    if "absent" in report:
        return f"absent, because {report['absent']} is not installed: `{report['install']}`"
    made_of = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    note = f"{report['about']} ({made_of})"
    if "removed" in report:
        return note
    return f"{note}: {report['cpu_s']:.2f} CPU-s for {report['megabytes']:.1f} MB"


def _verdict(value: float, target: float, more: bool) -> str:
    reached = value >= target if more else value <= target
    return "reached" if reached else "NOT REACHED"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dedup", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with corpus and truth")
    parser.add_argument("--tools", type=_tools, default=TOOLS, help=f"default: {','.join(TOOLS)}")
    parser.add_argument("--repeat", type=int, default=3, help="runs of every tool (default: 3)")
    parser.add_argument("--threshold", type=float, default=0.8, help="the peers' bands suit 0.8, the default")
    parser.add_argument("--scale", type=_scales, help="numbers of copies, instead of the comparison: 1,4,16")
    parser.add_argument("--memory-budget-mb", type=int, help="for --scale (default: that of DedupConfig)")
    parser.add_argument("--json", type=Path, help="also write the JSON lines to this file")
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables only, as docs/dedup.md has them"
    )
    parser.add_argument("--peer-python", type=Path, default=PEER_PYTHON, help=f"default: {PEER_PYTHON}")
    return parser


def _tools(text: str) -> list[str]:
    tools = text.split(",")
    unknown = sorted(set(tools) - set(TOOLS))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    return tools


def _scales(text: str) -> list[int]:
    return sorted({int(number) for number in text.split(",")})


if __name__ == "__main__":
    main()

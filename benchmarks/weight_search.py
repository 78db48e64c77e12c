"""Searches for domain weights: what each finds, on which rows it holds, and what it cost.

    python -m benchmarks.weight_search                                        synthetic sample documents
    python -m benchmarks.weight_search --corpus FOLDER --domains law,news     real text
    python -m benchmarks.weight_search --methods gradient,grid --trials 27

A folder holds `<domain>.jsonl`, `.jsonl.gz`, `.jsonl.zst` or `.parquet` with a text per line or row.

A small base model is trained on all domains and an adapter on each; then every method searches weights in a process of
its own, with one thread. Documents, not rows, are split into train, validation and test, after near-duplicates were
removed. Losses are means over domains, in nats per token: on the rows that were searched on, on other validation rows,
and on test rows. `-few` is the same method on few rows: what it gains there and loses on test rows is overfitting. (Its
other rows are not those of the rest, and are left out.)
Tokens of a search are all that go through the model for it; a gradient step's backward pass shows in CPU-seconds.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import describe_machine, machine_facts, markdown_table, run_fresh
from benchmarks.weight_search_child import FEW, OPTIONS_FILE
from yunmin_assets.dem.search_candidates import JOINT, ON_VALIDATION

METHODS = ("gradient", "per_module", "tpe", "grid")
DEFAULT_METHODS = (*METHODS, f"gradient{FEW}", f"per_module{FEW}")
SAMPLE_DOMAINS = "korean_textbook,papers_data,social_media_data"
SIZES = ("vocab_size", "hidden_size", "layers", "seq_len", "base_steps", "adapter_steps", "rank")
NUMBERS = ("documents", "trials", "search_rows", "few_rows", "comparison_rows", "test_rows")
CONTROLS = (JOINT, ON_VALIDATION)
LARGEST_SHARE = 0.25
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

Report = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks.weight_search", *(arguments or sys.argv[1:])])
    facts = machine_facts()
    with tempfile.TemporaryDirectory() as scratch:
        reports = [report | {"machine": facts} for report in compare(options, Path(scratch))]
    print(f"`{command}`, {describe_machine(facts)}\n\n{_scene(options)}\n\n{comparison_table(reports)}")
    print(f"\n{targets_table(reports)}")
    if not options.markdown:
        print("\n" + "\n".join(map(json.dumps, reports)))
    if options.json:
        options.json.write_text("".join(json.dumps(report) + "\n" for report in reports))


def compare(options: argparse.Namespace, scratch: Path) -> list[Report]:
    """One report per model: the methods', and with `gradient` the simple choices and the controls."""
    described: Report = {name: getattr(options, name) for name in NUMBERS}
    described |= {
        "domains": options.domains,
        "corpus": str(options.corpus.resolve()) if options.corpus else "",
    }
    described["sizes"] = {name: getattr(options, name) for name in SIZES}
    (scratch / OPTIONS_FILE).write_text(json.dumps(described))
    reports: list[Report] = []
    for what in ("prepare", *options.methods):
        print(what, file=sys.stderr)
        answer = run_fresh("benchmarks.weight_search_child", [what, str(scratch)], environment=ONE_THREAD)
        corpus = options.corpus.name if options.corpus else "synthetic sample"
        about = {"benchmark": "weight_search", "corpus": corpus, "domains": options.domains}
        reports += [about | report for report in answer.get("models", [])]
    return sorted(reports, key=lambda report: report["model"] in CONTROLS)


def comparison_table(reports: Sequence[Report]) -> str:
    """Losses and costs of all models in Markdown."""
    grid = next((report["search_tokens"] for report in reports if report["model"] == "grid"), 0)
    columns: dict[str, Callable[[Report], str]] = {
        "weights": lambda r: r["model"],
        "rows": lambda r: f"{r['search_rows']}" if r["weights"] else "",
        "loss there": lambda r: f"{r['search_loss']:.4f}",
        "other rows": lambda r: "" if r["model"].endswith(FEW) else f"{r['comparison_loss']:.4f}",
        "test": lambda r: f"{r['test_loss']:.4f}",
        "search tokens": lambda r: f"{r['search_tokens']:,}",
        "of the grid's": lambda r: f"{r['search_tokens'] / grid:.1%}" if grid else "",
        "search CPU-s": lambda r: f"{r['search_cpu_s']:.1f}",
        "training tokens": lambda r: f"{r['training_tokens']:,}",
        "CPU-s in all": lambda r: f"{r['cpu_s']:.1f}",
    }
    return markdown_table(list(columns), [[cell(report) for cell in columns.values()] for report in reports])


def targets_table(reports: Sequence[Report]) -> str:
    """What was aimed at, what was measured, and whether it is enough, in Markdown."""
    by_model = {report["model"]: report for report in reports}
    rows = []
    if "gradient" in by_model and "grid" in by_model:
        gradient, grid = by_model["gradient"], by_model["grid"]
        share = gradient["search_tokens"] / grid["search_tokens"]
        name = "tokens of the gradient search, of the grid's"
        rows.append([name, f"≤ {LARGEST_SHARE:.0%}", f"{share:.1%}", share <= LARGEST_SHARE])
        for key, where in (("comparison_loss", "other validation"), ("test_loss", "test")):
            more = gradient[key] - grid[key]
            rows.append([f"its loss on {where} rows minus the grid's", "≤ 0", f"{more:+.4f}", more <= 0])
    verdicts = [[*row[:3], "reached" if row[3] else "NOT REACHED"] for row in rows]
    return markdown_table(["target", "aimed at", "measured", ""], verdicts)


def _scene(options: argparse.Namespace) -> str:
    corpus = options.corpus.name if options.corpus else "synthetic sample"
    return (
        f"{corpus}: {', '.join(options.domains)}; Mamba-2 of hidden size {options.hidden_size}, {options.layers} "
        f"layers, vocabulary {options.vocab_size:,}, trained for {options.base_steps} steps; adapters of rank "
        f"{options.rank}, {options.adapter_steps} steps; rows of {options.seq_len} tokens, {options.comparison_rows} "
        f"other validation and {options.test_rows} test rows per domain at most"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weight_search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", type=Path, help="folder of real text (default: synthetic documents)")
    parser.add_argument("--domains", type=_names, default=_names(SAMPLE_DOMAINS), help=SAMPLE_DOMAINS)
    parser.add_argument(
        "--methods", type=_methods, default=DEFAULT_METHODS, help=f"default: {','.join(DEFAULT_METHODS)}"
    )
    defaults = {"documents": 1000, "trials": 64, "search_rows": 64, "few_rows": 4, "comparison_rows": 64}
    defaults |= {"test_rows": 256, "vocab_size": 2048, "hidden_size": 64, "layers": 2, "seq_len": 128}
    defaults |= {"base_steps": 150, "adapter_steps": 150, "rank": 8}
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"default: {value}")
    parser.add_argument("--markdown", action="store_true", help="no JSON lines on standard output")
    parser.add_argument("--json", type=Path, help="write the JSON lines to this file")
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


def _methods(text: str) -> list[str]:
    chosen, known = text.split(","), {name + end for name in METHODS for end in ("", FEW)}
    if unknown := sorted(set(chosen) - known):
        raise argparse.ArgumentTypeError(
            f"unknown {', '.join(unknown)}: choose among {', '.join(sorted(known))}"
        )
    return chosen


if __name__ == "__main__":
    main()

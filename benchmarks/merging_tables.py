"""The tables that `merging` prints, in Markdown."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import markdown_table

Report = dict[str, Any]

OURS, DIFFERENCES, FLOOR, PEER = "ours", "differences", "floor", "mergekit"
LARGEST_MEMORY_MB, LARGEST_SHARE_OF_FLOOR, TIMES_AS_FAST_AS_PEER, LEAST_ROUNDED = 250, 1.25, 2, 0.98
TITLES = {
    "dense": "four fine-tuned models, every matrix changed",
    "adapters": "four LoRA adapters of rank 16 on all projections",
}
GIGABYTE = 1e9


def comparison_table(kind: str, reports: Sequence[Report]) -> str:
    """Time, memory, bytes and rounding of all tools, and what they are."""
    measured = [report for report in reports if "wall_s" in report]
    by_tool = {report["tool"]: report for report in measured}
    ours = by_tool[OURS]["wall_s"] if OURS in by_tool else None
    columns: dict[str, Callable[[Report], str]] = {
        "tool": lambda r: r["tool"],
        "seconds (median)": lambda r: f"{r['wall_s']:.1f} ({r['wall_s_median']:.1f})",
        "ours takes": lambda r: f"{ours / r['wall_s']:.2f}×" if ours and r["tool"] != DIFFERENCES else "",
        "CPU-s (median)": lambda r: f"{r['cpu_s']:.1f} ({r['cpu_s_median']:.1f})",
        "extra MB": lambda r: f"{r['extra_anonymous_mb']:,.0f}",
        "with files": lambda r: f"{r['extra_rss_mb']:,.0f}",
        "GB read": lambda r: "mapped" if r["reads_mapped"] else f"{r['bytes_read'] / GIGABYTE:.2f}",
        "GB written": lambda r: f"{r['bytes_written'] / GIGABYTE:.2f}",
        "correctly rounded": _rounded,
    }
    rows = [[cell(report) for cell in columns.values()] for report in measured]
    notes = [f"- `{report['tool']}`: {_note(report)}" for report in reports]
    base, inputs = (reports[0][key] / GIGABYTE for key in ("base_bytes", "input_bytes"))
    scene = f"Synthetic Llama of {base:.2f} GB, {TITLES[kind]} ({inputs:.2f} GB together):"
    return "\n".join([scene, "", markdown_table(list(columns), rows), "", *notes, *_first_merge(by_tool)])


def targets_table(reports: Sequence[Report]) -> str:
    """What was aimed at, what was measured, and whether it is enough; times by the best run of each."""
    rows: list[Target] = []
    for kind in TITLES:
        tools = {
            report["tool"]: report for report in reports if report["kind"] == kind and "wall_s" in report
        }
        rows += [(f"{kind}: {what}", value, target, more) for what, value, target, more in _targets(tools)]
    return markdown_table(
        ["target", "aimed at", "measured", ""],
        [
            [what, f"{'≥' if more else '≤'} {target:g}", f"{value:.4g}", _verdict(value, target, more)]
            for what, value, target, more in rows
        ],
    )


def memory_table(reports: Sequence[Report]) -> str:
    """What merging and making the differences take at several sizes of the model."""
    names = ["GB of base", "largest tensor MB", "kind", "tool", "extra MB", "with files", "seconds", "CPU-s"]
    rows = [
        [
            f"{report['base_bytes'] / GIGABYTE:.2f}",
            f"{report['largest_tensor_bytes'] / 1e6:,.0f}",
            report["kind"],
            report["tool"],
            f"{report['extra_anonymous_mb']:.1f}",
            f"{report['extra_rss_mb']:.1f}",
            f"{report['wall_s']:.1f}",
            f"{report['cpu_s']:.1f}",
        ]
        for report in reports
    ]
    return markdown_table(names, rows)


Target = tuple[str, float, float, bool]
"""What, measured, aimed at, whether more is better."""


def _targets(tools: dict[str, Report]) -> list[Target]:
    if OURS not in tools:
        return []
    ours = tools[OURS]
    rows: list[Target] = [("extra MB", ours["extra_anonymous_mb"], LARGEST_MEMORY_MB, False)]
    if FLOOR in tools:
        share = ours["wall_s"] / tools[FLOOR]["wall_s"]
        rows.append(("seconds against plain reading and writing", share, LARGEST_SHARE_OF_FLOOR, False))
    peers = {tool: report for tool, report in tools.items() if tool.startswith(PEER)}
    if peers:
        best = min(peers, key=lambda tool: peers[tool]["wall_s"])
        times = peers[best]["wall_s"] / ours["wall_s"]
        rows.append((f"times as fast as {best}", times, TIMES_AS_FAST_AS_PEER, True))
    rows.append(("share of correctly rounded numbers", ours["rounded"], LEAST_ROUNDED, True))
    rows.append(("tensors that nothing changes are the base's", float(ours["others_kept"]), 1, True))
    return rows


def _first_merge(by_tool: dict[str, Report]) -> list[str]:
    """What ours takes where the differences are not there yet."""
    if not {OURS, DIFFERENCES} <= by_tool.keys():
        return []
    seconds, cpu_seconds = (by_tool[OURS][key] + by_tool[DIFFERENCES][key] for key in ("wall_s", "cpu_s"))
    return [
        f"- the first merge of ours, with the differences made for it: {seconds:.1f} s, {cpu_seconds:.1f} CPU-s"
    ]


def _rounded(report: Report) -> str:
    if "rounded" not in report:
        return ""
    return f"{report['rounded']:.3%}{'' if report['others_kept'] else ', OTHERS CHANGED'}"


def _note(report: Report) -> str:
    if "absent" in report:
        return f"absent, because {report['absent']} is not installed: `{report['install']}`"
    if "failed" in report:
        return f"failed: {report['failed']}"
    made_of = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    return f"{report['about']}{f' ({made_of})' if made_of else ''}"


def _verdict(value: float, target: float, more: bool) -> str:
    reached = value >= target if more else value <= target
    return "reached" if reached else "NOT REACHED"

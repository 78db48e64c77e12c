"""The tables that `loading` prints, in Markdown."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import markdown_table, target_verdict, tool_note

Report = dict[str, Any]

UNCOMPRESSED, DEFAULT, SMALL = "ours-uncompressed", "ours-1024", "ours-256"
UNMIXED = 2
"""A b512 from which on batches are not called mixed."""
OTHERS_FOR_TRAINING = ("datasets", "mosaicml", "litdata", "lance", "pyarrow-groups", "pyarrow-default")


def loader_table(reports: Sequence[Report]) -> str:
    """Speed, memory and order of all loaders, and what they are."""
    columns: dict[str, Callable[[Report], str]] = {
        "tool": lambda r: r["tool"],
        "Mtok/CPU-s (best)": lambda r: f"{r['mtok_per_cpu_s_median']:.1f} ({r['mtok_per_cpu_s']:.1f})",
        "Mtok/s": lambda r: f"{r['mtok_per_wall_s']:.1f}",
        "extra MB": lambda r: f"{r['extra_anonymous_mb']:,.0f}",
        "with files": lambda r: f"{r['extra_rss_mb']:,.0f}",
        "b512": lambda r: "" if r["b512"] is None else f"{r['b512']:.2f}",
        "every row once": lambda r: "yes" if r["every_row_once"] else "NO",
        "first batch ms": lambda r: f"{r['first_batch_ms']:,.0f}",
        "resume ms": _resume,
        "stored MB": lambda r: f"{r['stored_bytes'] / 1e6:,.0f}",
        "read/stored": lambda r: (
            "mapped" if r["read_amplification"] < 0.5 else f"{r['read_amplification']:.2f}"
        ),
        "runs": lambda r: str(len(r["cpu_s_of_runs"])),
    }
    rows = [[cell(report) for cell in columns.values()] for report in reports if "b512" in report]
    notes = [f"- `{report['tool']}`: {tool_note(report)}" for report in reports]
    return "\n".join([markdown_table(list(columns), rows), "", *notes])


def memory_table(reports: Sequence[Report]) -> str:
    """Extra memory against the size of the data."""
    names = ["tool", "GB of rows", "GB packed", "extra MB", "with files", "Mtok/CPU-s"]
    rows = [
        [
            report["tool"],
            f"{report['gigabytes']:g}",
            f"{report['packed_bytes'] / 1e9:.2f}",
            f"{report['extra_anonymous_mb']:.1f}",
            f"{report['extra_rss_mb']:.1f}",
            f"{report['mtok_per_cpu_s']:.1f}",
        ]
        for report in reports
    ]
    return markdown_table(names, rows)


def targets_table(reports: Sequence[Report], text: Report | None) -> str:
    """What was aimed at, what was measured (medians), and whether it is enough."""
    by_tool = {report["tool"]: report for report in reports if "b512" in report}
    rows = [*_speed_targets(by_tool), *_other_targets(by_tool), *(_text_targets(text) if text else [])]
    return markdown_table(
        ["target", "aimed at", "measured", ""],
        [
            [what, f"{'≥' if more else '≤'} {target:g}", f"{value:.4g}", target_verdict(value, target, more)]
            for what, value, target, more in rows
        ],
    )


Target = tuple[str, float, float, bool]
"""What, measured, aimed at, whether more is better."""


def _speed_targets(by_tool: dict[str, Report]) -> list[Target]:
    speed = {tool: report["mtok_per_cpu_s_median"] for tool, report in by_tool.items()}
    rows: list[Target] = []
    if UNCOMPRESSED in speed:
        rows.append(("uncompressed, Mtok per CPU-s", speed[UNCOMPRESSED], 250, True))
        for memmap in ("memmap", "memmap-labels"):
            if memmap in speed:
                share = speed[UNCOMPRESSED] / speed[memmap]
                rows.append((f"uncompressed against {memmap}", share, 0.7, True))
    if DEFAULT in speed:
        rows.append(("zstd-3, Mtok per CPU-s", speed[DEFAULT], 150, True))
        rows.append(("zstd-3, Mtok/s by the clock", by_tool[DEFAULT]["mtok_per_wall_s"], 120, True))
        for orjson in ("orjson", "orjson-tensor"):
            if orjson in speed:
                ratio = speed[DEFAULT] / speed[orjson]
                rows.append((f"zstd-3, times as fast as {orjson}", ratio, 30, True))
    others = {tool: speed[tool] for tool in OTHERS_FOR_TRAINING if tool in speed}
    mixing = {tool: rate for tool, rate in others.items() if (by_tool[tool]["b512"] or UNMIXED) < UNMIXED}
    for ours in (DEFAULT, UNCOMPRESSED):
        for what, peers in (("best peer", others), ("best peer that mixes", mixing)):
            if ours in speed and peers:
                best = max(peers, key=lambda tool: peers[tool])
                rows.append(
                    (f"{ours}, times as fast as the {what} ({best})", speed[ours] / peers[best], 2, True)
                )
    return rows


def _other_targets(by_tool: dict[str, Report]) -> list[Target]:
    rows: list[Target] = []
    for tool, target in ((SMALL, 61), (DEFAULT, 150)):
        if tool in by_tool:
            rows.append((f"extra MB, {tool}", by_tool[tool]["extra_anonymous_mb"], target, False))
    if {SMALL, "orjson-buffer"} <= by_tool.keys():
        buffer = by_tool["orjson-buffer"]["extra_anonymous_mb"]
        share = by_tool[SMALL]["extra_anonymous_mb"] / buffer
        rows.append((f"extra memory of {SMALL} against orjson-buffer", share, 0.2, False))
    for tool in (DEFAULT, SMALL, UNCOMPRESSED):
        if tool in by_tool:
            report = by_tool[tool]
            rows += [
                (f"b512, {tool}", report["b512"] or float("inf"), 1.1, False),
                (f"every row exactly once, {tool}", report["every_row_once"], 1, True),
                (f"bytes read per byte stored, {tool}", report["read_amplification"], 1.1, False),
                (f"first batch, ms, {tool}", report["first_batch_ms"], 50, False),
                (f"resume anywhere, ms, {tool}", report["resume_ms"], 100, False),
                (f"resume is exact, {tool}", report["resume_is_exact"], 1, True),
            ]
    return rows


def _text_targets(text: Report) -> list[Target]:
    seconds = {reader: report["cpu_s_median"] for reader, report in text["readers"].items()}
    share = text["sizes"]["parquet_bytes"] / text["sizes"]["jsonl_bytes"]
    return [
        ("text, times as fast as json", seconds["json"] / seconds["parquet"], 4.5, True),
        ("text, times as fast as orjson", seconds["orjson"] / seconds["parquet"], 2.2, True),
        ("text as Arrow, times as fast as orjson", seconds["orjson"] / seconds["arrow"], 7, True),
        ("documents, bytes of Parquet per byte of JSONL", share, 0.3, False),
    ]


def _resume(report: Report) -> str:
    if "resume_ms" not in report:
        return ""
    return f"{report['resume_ms']:,.0f}{'' if report['resume_is_exact'] else ' (NOT EXACT)'}"

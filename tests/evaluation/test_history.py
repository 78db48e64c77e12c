"""The history page shows what past reports said, and names those that it cannot read."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.fixture_report import DOMAINS, HOSTILE, fixture_report
from tests.evaluation.page import Page
from yunmin_assets.evaluation.history import (
    BOTTOM,
    HEIGHT,
    HISTORY_FILE,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Entry,
    history_plot,
    read_history,
    write_history,
)
from yunmin_assets.evaluation.model import PerplexityCell, Report
from yunmin_assets.evaluation.report import REPORT_JSON, write_report


def report(day: int, **bits: float | None) -> Report:
    """A report of one day; bits per byte on "law" by model."""
    cells = [
        PerplexityCell(
            domain="law",
            model=model,
            perplexity=9.0,
            low=8.0,
            high=10.0,
            documents=5,
            tokens=50,
            bits_per_byte=value,
        )
        for model, value in bits.items()
    ]
    return Report(
        created=f"2025-11-{day:02}T09:00:00+09:00",
        corpus="law",
        synthetic=False,
        base_model="none",
        perplexity=tuple(cells),
    )


def points(svg: str) -> list[list[tuple[float, float]]]:
    """The dots of each line."""
    return [
        [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', group)]
        for group in re.findall(r'<g class="line.*?</g>', svg)
    ]


def test_reports_read_back_in_order(tmp_path: Path) -> None:
    for version in ("1", "2"):
        write_report(fixture_report(), tmp_path / version)
    entries, unreadable = read_history((version, tmp_path / version / REPORT_JSON) for version in ("1", "2"))
    assert [entry.version for entry in entries] == ["1", "2"]
    assert entries[0].report == fixture_report()
    assert unreadable == []


def older(**changes: Any) -> str:
    content = json.loads(report(1, base=2.0).model_dump_json())
    return json.dumps(content | changes)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (older(loader="fast"), r"old: loader: Extra inputs are not permitted"),
        (older(synthetic="perhaps"), r"old: synthetic: .*boolean.*"),
        (older(perplexity=[{"domain": "law"}]), r"old: perplexity\.0\.model: Field required"),
        ("{", r"old: Invalid JSON: .*"),
        (None, r"old: No such file or directory"),
    ],
)
def test_a_report_that_cannot_be_read_is_named_and_the_others_are_shown(
    content: str | None, reason: str, tmp_path: Path
) -> None:
    path, good = tmp_path / "old.json", tmp_path / "good.json"
    good.write_text(older())
    if content is not None:
        path.write_text(content)
    entries, unreadable = read_history([("old", path), ("new", good)])
    assert [entry.version for entry in entries] == ["new"]
    assert len(unreadable) == 1 and re.fullmatch(reason, unreadable[0])
    write_history(entries, unreadable, tmp_path)
    assert unreadable[0] in Page((tmp_path / HISTORY_FILE).read_text()).text


def test_the_plot_puts_every_report_at_its_place_and_every_value_at_its_height() -> None:
    entries = [
        Entry("1", report(1, base=2.0, merged=1.9)),
        Entry("2", report(2, base=2.1, merged=None)),
        Entry("3", report(3, base=2.0, merged=1.5)),
    ]
    base, merged = points(history_plot(entries, "law"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    assert [x for x, _ in base] == [LEFT, middle, WIDTH - RIGHT]
    assert [x for x, _ in merged] == [LEFT, WIDTH - RIGHT]
    assert base[0][1] == base[2][1]  # equal values lie on one height
    heights = {2.0: base[0][1], 2.1: base[1][1], 1.9: merged[0][1], 1.5: merged[1][1]}
    for value, height in heights.items():
        expected = heights[2.1] + (2.1 - value) / (2.1 - 1.5) * (heights[1.5] - heights[2.1])
        assert height == pytest.approx(expected, abs=0.1)
        assert TOP < height < HEIGHT - BOTTOM


def test_axis_labels_tell_close_values_apart() -> None:
    entries = [Entry(str(day), report(day, base=2.0 + day / 1e4, merged=2.0)) for day in (1, 2, 3)]
    svg = history_plot(entries, "law")
    labels = re.findall(r'class="tick end" x="62" y="[\d.]+">([\d.]+)<', svg)
    assert len(labels) == len(set(labels)) >= 2
    assert all(math.isclose(float(label), 2.0, abs_tol=4e-4) for label in labels)


def test_one_report_and_a_value_that_never_changes_can_be_drawn(tmp_path: Path) -> None:
    for count in (1, 3):
        same = [Entry(str(day), report(day + 1, base=2.0, merged=2.0)) for day in range(count)]
        base, merged = points(history_plot(same, "law"))
        assert base == merged and len(base) == count
        write_history(same, [], tmp_path)
    assert points(history_plot([Entry("1", report(1))], "law")) == []


def test_the_page_is_well_formed_shows_the_newest_first_and_links_only_to_the_report(tmp_path: Path) -> None:
    newer = fixture_report().model_copy(update={"created": "2025-11-23T10:00:00+09:00"})
    write_history([Entry("snapshot-1", fixture_report()), Entry("snapshot-2", newer)], [], tmp_path)
    html = (tmp_path / HISTORY_FILE).read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == [] and page.addresses == ["report.html"]
    assert "default-src 'none'" in html and not re.search(r"https?://|@import|url\(", html)
    assert page.text.index("snapshot-2") < page.text.index("snapshot-1")
    for text in (*DOMAINS, "kobest_boolq_dev", "2 reports", "1.910 → 1.852", "50.0 % → 52.1 %"):
        assert text in page.text


def test_texts_of_reports_cannot_become_markup(tmp_path: Path) -> None:
    content = fixture_report().model_dump()
    hostile = f'"{HOSTILE}" onload="x'
    for row in (*content["perplexity"], *content["choices"]):
        if row["model"] in ("base", "merged"):
            for name in {"domain", "benchmark"} & set(row):
                row[name] = hostile + row[name]
    texts = dict.fromkeys(("title", "base_model", "created"), hostile)
    entry = Entry(hostile, Report.model_validate(content | texts))
    write_history([entry], [hostile], tmp_path)
    page = Page((tmp_path / HISTORY_FILE).read_text(encoding="utf-8"))
    assert "script" not in page.tags and "onload" not in page.attributes
    assert hostile in page.text
    assert page.open == []

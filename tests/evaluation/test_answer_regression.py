"""A model against itself in the last report, item by item; older reports without answers are named and passed over."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from tests.evaluation.fixture_report import fixture_report
from tests.evaluation.page import Page
from yunmin_assets.evaluation.answer_regression import compare_answers_with_last
from yunmin_assets.evaluation.choices import ANSWERS_FILE, ANSWERS_SCHEMA, write_answers
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.model import ChoiceChangeRow
from yunmin_assets.evaluation.report import render

CONFIG = EvaluationConfig()


def answers(benchmark: str, outcomes: str, *, model: str = "merged", first: int = 0) -> pa.Table:
    """One item per letter, from number `first` on; `+` is right, `-` is wrong."""
    rows = [
        {"benchmark": benchmark, "model": model, "item": str(number), "correct": letter == "+"}
        for number, letter in enumerate(outcomes, start=first)
    ]
    return pa.Table.from_pylist(rows, ANSWERS_SCHEMA)


def compare(last: Path, before: pa.Table, now: pa.Table) -> tuple[list[ChoiceChangeRow], list[str]]:
    lines: list[str] = []
    write_answers(before, last)
    return compare_answers_with_last(now, last, "merged", CONFIG, log=lines.append), lines


def test_a_fall_is_seen_by_mcnemars_exact_test(tmp_path: Path) -> None:
    before, now = "+" * 30 + "-" * 70, "-" * 20 + "+" * 15 + "-" * 65
    (row,), lines = compare(tmp_path, answers("copa", before), answers("copa", now))
    assert (row.benchmark, row.items, row.before, row.now) == ("copa", 100, 0.3, 0.15)
    assert row.difference == pytest.approx(-0.15)
    assert row.p_value == pytest.approx(binomtest(5, 25).pvalue)
    assert row.low < row.difference < row.high < 0
    assert (row.verdict, lines) == ("worse", [])


def test_the_same_answers_are_not_shown_to_differ(tmp_path: Path) -> None:
    (row,), _ = compare(tmp_path, answers("copa", "+-+-"), answers("copa", "+-+-"))
    assert (row.difference, row.p_value, row.verdict) == (0.0, 1.0, "not shown")


def test_several_benchmarks_are_corrected(tmp_path: Path) -> None:
    """Seven of seven are p = 0.016 alone, and 0.03 of two, 0.06 of four."""
    falls, rises = ("+" * 7, "-" * 7), ("-" * 7, "+" * 7)
    for count, verdicts in {2: ["worse", "better"], 4: ["not shown"] * 4}.items():
        pairs = [(falls, rises)[number % 2] for number in range(count)]
        before, now = (
            pa.concat_tables(answers(f"b{number}", pair[side]) for number, pair in enumerate(pairs))
            for side in (0, 1)
        )
        rows, _ = compare(tmp_path, before, now)
        assert [row.verdict for row in rows] == verdicts
        assert [row.p_value for row in rows] == pytest.approx([count * binomtest(0, 7).pvalue] * count)


def test_only_items_of_both_reports_and_answers_of_the_model_count(tmp_path: Path) -> None:
    before = pa.concat_tables([answers("copa", "+" * 10), answers("copa", "-" * 10, model="base")])
    now = pa.concat_tables([answers("copa", "+" * 10, first=6), answers("copa", "-" * 20, model="base")])
    (row,), _ = compare(tmp_path, before, now)
    assert (row.items, row.before, row.now) == (4, 1.0, 1.0)


def test_a_benchmark_of_which_nothing_was_asked_before_is_named_and_corrects_nothing(tmp_path: Path) -> None:
    now = pa.concat_tables([answers("copa", "-" * 7), answers("wic", "+++"), answers("boolq", "+", first=9)])
    before = pa.concat_tables([answers("copa", "+" * 7), answers("boolq", "+"), answers("gone", "+")])
    (row,), lines = compare(tmp_path, before, now)
    assert (row.benchmark, row.p_value) == ("copa", pytest.approx(binomtest(0, 7).pvalue))
    assert [line.split(":")[0] for line in lines] == ["wic", "boolq"]


def test_a_report_without_readable_answers_is_named_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / ANSWERS_FILE).write_bytes(b"PAR1 and then nothing")
    (tmp_path / "renamed").mkdir()
    renamed = answers("copa", "++").rename_columns(["benchmark", "model", "question", "correct"])
    pq.write_table(renamed, tmp_path / "renamed" / ANSWERS_FILE)
    for name, reason in {
        "absent": "cannot be read",
        "broken": "cannot be read",
        "renamed": "question",
    }.items():
        lines: list[str] = []
        folder = tmp_path / name
        assert (
            compare_answers_with_last(answers("copa", "++"), folder, "merged", CONFIG, log=lines.append) == []
        )
        (line,) = lines
        assert str(folder) in line and reason in line


def test_without_benchmarks_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert compare(tmp_path, answers("copa", "++"), answers("copa", "")) == ([], [])


def test_the_page_shows_every_change(tmp_path: Path) -> None:
    changes, _ = compare(tmp_path, answers("copa", "+" * 9 + "-"), answers("copa", "-" * 9 + "+"))
    text = Page(render(fixture_report().model_copy(update={"choice_changes": tuple(changes)}))).text
    assert "on the items that both" not in Page(render(fixture_report())).text
    assert re.search(r"copa\s*10\s*90.0 %\s*10.0 %\s*−80.0 %", text)

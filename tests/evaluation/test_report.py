"""The report is one well-formed page that needs nothing else, and JSON that reads back equal."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.evaluation.fixture_report import DOMAINS, HOSTILE, fixture_report
from tests.evaluation.page import Page
from yunmin_assets import evaluation
from yunmin_assets.evaluation import formatting
from yunmin_assets.evaluation.model import (
    CandidateRow,
    CostRow,
    Generation,
    Measurement,
    PerplexityCell,
    Report,
    owner_expectations,
)
from yunmin_assets.evaluation.plots import Mark, interval_plot
from yunmin_assets.evaluation.report import headline, render, write_report


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(fixture_report()))


def test_reading_the_configuration_imports_neither_templates_nor_numbers() -> None:
    program = (
        "import sys, yunmin_assets.evaluation; print(*({'jinja2', 'numpy', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_every_public_name_is_what_it_was_at_the_first_look() -> None:
    """A function named like its module would be replaced by it."""
    first = {name: getattr(evaluation, name) for name in evaluation.__all__}
    assert all(getattr(evaluation, name) is value and callable(value) for name, value in first.items())


def empty_report(**fields: Any) -> Report:
    return Report(created="2025-11-21", corpus="nothing", synthetic=False, base_model="none", **fields)


def cell(domain: str, model: str, **fields: Any) -> PerplexityCell:
    numbers = {"perplexity": 10.0, "low": 9.0, "high": 11.0, "documents": 5, "tokens": 50}
    return PerplexityCell(domain=domain, model=model, **(numbers | fields))


def test_json_reads_back_to_an_equal_report(tmp_path: Path) -> None:
    json_path, html_path = write_report(fixture_report(), tmp_path / "report")
    assert Report.model_validate_json(json_path.read_bytes()) == fixture_report()
    assert html_path.read_text(encoding="utf-8") == render(fixture_report())
    assert sorted(path.name for path in json_path.parent.iterdir()) == ["report.html", "report.json"]


def test_the_page_is_well_formed_and_needs_nothing_from_outside(page: Page) -> None:
    assert page.open == []
    assert page.addresses == ["history.html", "blind_sheet.html"]
    html = render(fixture_report())
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(", html)
    assert "default-src 'none'" in html


def test_the_page_holds_what_was_reported(page: Page) -> None:
    report = fixture_report()
    assert "병합 모델은 5개 영역 가운데 3개에서" in page.text
    for text in (
        *DOMAINS,
        report.corpus,
        "1,771 pairs",
        "99.9 %",
        "not measured yet",
        "10 min 13 s",
        "0.412",
    ):
        assert text in page.text
    for generation in report.generations:
        assert generation.prompt in page.text
        for continuation in generation.continuations.values():
            assert continuation.strip() in page.text
        for text in generation.sampled.values():
            assert text.strip() in page.text
        assert (generation.reference or "") in page.text
    for text in (
        "scored blind by a person",
        "25.6 %",
        "korean_textbook-000917",
        "500 of 701 items, 25 unusable",
        "48.1 % to 56.1 %",
        "item 20: answer is",
        "and 5 more, all in report.json",
        "the log-likelihood of choice 2 is nan",
        "정보성",
        "tok:ko-mecab",
        "2025-11-14 09:05",
        "−0.041 to −0.021",
        "nothing was written",
    ):
        assert text.casefold() in page.text.casefold()
    assert "item 21: answer is" not in page.text


def test_a_report_that_nobody_has_rated_asks_for_it_and_links_to_its_blind_sheet() -> None:
    parsed = Page(render(fixture_report().model_copy(update={"human": ()})))
    assert "No person has scored these texts yet" in parsed.text
    assert parsed.addresses == ["history.html", "blind_sheet.html"]


def test_ratings_of_other_models_are_shown_without_a_verdict() -> None:
    current = Page(render(fixture_report()))
    older = fixture_report().model_copy(
        update={"rated_report": "2026-01-02T03:04:05+00:00", "rated_models_are_current": False}
    )
    assert "give no verdict on these" not in current.text
    parsed = Page(render(older))
    assert "give no verdict on these" in parsed.text


def test_a_report_without_common_documents_says_so() -> None:
    parsed = Page(render(fixture_report().model_copy(update={"changes": ()})))
    assert "No domain has 20 documents" in parsed.text


def test_a_model_that_wrote_nothing_is_shown_so() -> None:
    generation = Generation(
        prompt_id="1", kind="poem", prompt="봄", continuations={"base": " \n", "merged": "꽃"}
    )
    parsed = Page(render(empty_report(generations=(generation,))))
    assert parsed.text.count("nothing was written") == 1


def hostile(value: Any, place: str) -> Any:
    """The same report with every text replaced by one that tries to break out of markup and attributes."""
    if isinstance(value, dict):
        return {key: hostile(each, key) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [hostile(each, place) for each in value]
    keep = not isinstance(value, str) or place in ("verdict", "model", "metric")
    return value if keep else f'"{HOSTILE}" onload="x" {value}'


def test_no_text_of_models_or_data_can_become_markup(page: Page) -> None:
    assert HOSTILE in page.text
    report = Report.model_validate(hostile(fixture_report().model_dump(), ""))
    for parsed in (page, Page(render(report))):
        assert not {"script", "img"} & set(parsed.tags)
        assert "onload" not in parsed.attributes
        assert parsed.addresses == ["history.html", "blind_sheet.html"]
        assert parsed.open == []
    assert Page(render(report)).text.count(HOSTILE) > 100


def test_names_of_models_and_domains_cannot_become_markup() -> None:
    odd = cell("</svg><img src=x>", "<b>", difference=0.1, difference_low=0.0, difference_high=0.2)
    parsed = Page(render(fixture_report().model_copy(update={"perplexity": (odd,)})))
    assert "img" not in parsed.tags and "b" not in parsed.tags
    assert "</svg><img src=x>" in parsed.text


def test_a_synthetic_corpus_is_announced_before_anything_else(page: Page) -> None:
    assert page.text.split()[:2] == ["SYNTHETIC", "CORPUS"]
    assert "SYNTHETIC" not in Page(render(fixture_report().model_copy(update={"synthetic": False}))).text


def test_a_report_without_measurements_still_renders() -> None:
    parsed = Page(render(empty_report(expectations=owner_expectations({}))))
    assert parsed.text.count("not measured yet") == 5
    assert "has not been compared" in parsed.text
    assert "svg" not in parsed.tags


def test_the_headline_counts_the_verdicts_on_the_merged_model_only() -> None:
    better = {"verdict": "better", "difference": -0.1}
    worse = {"verdict": "worse", "difference": 0.1}
    report = empty_report(
        perplexity=(
            cell("a", "base"),
            cell("a", "merged", **better),
            cell("b", "merged", verdict="not shown", difference=0.0),
            cell("b", "uniform", **worse),
        )
    )
    found = headline(report)
    assert found.sentence == (
        "The merged model is better than its base on 1 of 2 domains, worse on 0; on 1 no difference is shown."
    )
    assert found.tone == "better"
    both = empty_report(perplexity=(cell("a", "merged", **better), cell("b", "merged", **worse)))
    assert headline(both).tone == "mixed"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_with_its_fields_name(bad: float) -> None:
    with pytest.raises(ValidationError, match="bits_per_byte"):
        cell("a", "base", bits_per_byte=bad)
    with pytest.raises(ValidationError, match=r"weights\.law"):
        CandidateRow(candidate="searched", mean_nll=1.0, weights={"law": bad})
    with pytest.raises(ValidationError, match="wall_seconds"):
        CostRow(stage="merge", wall_seconds=bad, cpu_seconds=1, peak_memory_bytes=1, bytes_in=1, bytes_out=1)
    with pytest.raises(ValidationError, match=r"perplexity\.0\.high"):
        empty_report(perplexity=[cell("a", "base").model_dump() | {"high": bad}])


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="verdict of merged on a is 'better'"):
        cell("a", "merged", verdict="better", difference=0.2)
    with pytest.raises(ValidationError, match="two cells for base on a"):
        empty_report(perplexity=(cell("a", "base"), cell("a", "base")))
    with pytest.raises(ValueError, match="unknown expectation 'speed'"):
        owner_expectations({"speed": Measurement(measured="1", baseline="1", how="1")})
    with pytest.raises(ValidationError, match="continuation"):
        Generation(prompt_id="1", kind="poem", prompt="가을", continuation={"base": "하늘"})  # type: ignore[call-arg]


def test_the_page_says_how_much_text_is_left() -> None:
    row = fixture_report().funnel[0].model_copy(update={"raw_bytes": 1000, "pruned_bytes": 420})
    assert row.kept_share == 0.42
    parsed = Page(render(empty_report(funnel=(row,))))
    assert "42.0 % of bytes" in parsed.text and "58.0 %" in parsed.text


def test_a_plot_has_one_mark_with_its_interval_for_each_value() -> None:
    marks = [
        Mark("법률", "A", 2.0, 1.0, 4.0),
        Mark("법률", "B", 8.0, 4.0, 16.0),
        Mark("웹", "A", 2.0, 2.0, 2.0),
    ]
    svg = interval_plot(
        marks, ["A", "B"], label="plot", axis="x", show=str, tick=str, logarithmic=True, reference=2.0
    )
    parsed = Page(svg)
    assert parsed.tags.count("g") == 3
    assert parsed.tags.count("circle") == 2 and parsed.tags.count("polygon") == 1
    lines = [tuple(map(float, found)) for found in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"', svg)]
    widths = [right - left for left, right in lines]
    assert widths[0] == pytest.approx(widths[1], abs=0.2)  # both intervals span a factor of four
    assert widths[2] == 0


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formatting.count(1234567), "1,234,567"),
        (formatting.size(999), "999 B"),
        (formatting.size(12_345_678), "12.3 MB"),
        (formatting.size(999_999), "1.00 MB"),
        (formatting.size(210_000_000), "210 MB"),
        (formatting.seconds(0.42), "420 ms"),
        (formatting.seconds(4.21), "4.2 s"),
        (formatting.seconds(59.97), "1 min 0 s"),
        (formatting.seconds(7500), "2 h 5 min"),
        (formatting.perplexity(275.93), "275.9"),
        (formatting.perplexity(12.345), "12.35"),
        (formatting.perplexity(1312.4), "1,312"),
        (formatting.percent(0.4213), "42.1 %"),
        (formatting.signed_percent(-0.0611), "−6.1 %"),
        (formatting.signed_percent(0.0001), "±0.0 %"),
        (formatting.whole_percent(-0.05), "−5 %"),
        (formatting.p_value(0.0004), "< 0.001"),
        (formatting.moment("2025-11-21T22:30:00+09:00"), "2025-11-21 22:30 (+09:00)"),
        (formatting.moment("2025-11-21"), "2025-11-21"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected

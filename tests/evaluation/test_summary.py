"""What a person sees of a report on the asset's page, and what its checks say."""

from typing import Any

import pytest

from tests.evaluation.fixture_report import DOMAINS, fixture_report
from yunmin_assets.evaluation.assets import eval_report
from yunmin_assets.evaluation.model import Report
from yunmin_assets.evaluation.summary import Finding, describe_report, report_checks

UNSEEN = Finding("base_never_saw_test", True, "no domain was split anew")


def checks(report: Report) -> dict[str, Finding]:
    return {found.name: found for found in report_checks(report, UNSEEN)}


def without(**fields: Any) -> Report:
    return fixture_report().model_copy(update=fields)


def test_every_check_that_the_asset_promises_is_reported_and_blocks_as_promised() -> None:
    promised = {spec.name: spec.blocking for spec in eval_report.check_specs}
    assert {name: found.blocking for name, found in checks(fixture_report()).items()} == promised


def test_a_merged_model_that_is_worse_fails_the_checks_by_domain() -> None:
    found = checks(fixture_report())
    assert not found["no_regression"].passed
    assert found["no_regression"].description.startswith("worse: perplexity on social_media_data")
    assert not found["not_worse_than_before"].passed
    assert found["not_worse_than_before"].description.startswith(
        "worse: national_assembly_data; compared on "
    )


def test_a_difference_that_is_not_shown_passes() -> None:
    report = fixture_report()
    same = [
        cell.model_copy(update={"verdict": "not shown"} if cell.verdict == "worse" else {})
        for cell in report.perplexity
    ]
    changes, criteria = report.changes[::2], tuple(row for row in report.criteria if row.verdict != "worse")
    found = checks(without(perplexity=tuple(same), changes=changes, criteria=criteria))
    assert found["no_regression"].passed
    assert found["not_worse_than_before"].passed
    assert found["not_worse_than_before"].description == f"compared on {DOMAINS[0]}, {DOMAINS[2]}"


@pytest.mark.parametrize(
    ("fields", "description"),
    [
        ({"last_report": None, "changes": ()}, "this is the first report"),
        ({"changes": ()}, "no domain has 20 documents, and no benchmark an item, that both reports measured"),
    ],
)
def test_what_cannot_be_compared_with_the_last_report_says_so(
    fields: dict[str, Any], description: str
) -> None:
    found = checks(without(**fields))["not_worse_than_before"]
    assert (found.passed, found.description) == (True, description)


def test_items_that_were_not_used_or_not_answered_are_counted_by_benchmark_and_model() -> None:
    found = checks(fixture_report())["every_item_usable"]
    assert not found.passed
    assert "kobest_boolq_dev, base: 25 left out, 0 unanswered" in found.description
    assert "kobest_boolq_dev, joint: 25 left out, 1 unanswered" in found.description
    unanswered = [row.model_copy(update={"left_out": ()}) for row in fixture_report().choices[:3]]
    found = checks(without(choices=tuple(unanswered)))["every_item_usable"]
    assert (found.passed, found.description) == (False, "kobest_boolq_dev, joint: 0 left out, 1 unanswered")
    assert checks(without(choices=tuple(unanswered[:2])))["every_item_usable"].passed


def test_key_figures_and_tables_hold_what_the_report_says() -> None:
    report = fixture_report()
    figures, rendered = describe_report(report)
    assert figures["headline"].startswith("The merged model is better than its base on 3 of 5 domains")
    assert figures["perplexity base web_data"] == 241.7
    assert figures["accuracy merged kobest_boolq_dev"] == 0.521
    assert set(rendered) == {"perplexity", "change_against_base", "multiple_choice"}
    assert rendered["perplexity"].count("\n") >= len(report.perplexity)
    assert "52.1 %" in rendered["multiple_choice"] and "48.1 % to 56.1 %" in rendered["multiple_choice"]
    assert rendered["change_against_base"].startswith("![")


def test_what_was_not_measured_is_not_drawn() -> None:
    base_alone = tuple(cell for cell in fixture_report().perplexity if cell.model == "base")
    _, rendered = describe_report(without(perplexity=base_alone, choices=()))
    assert set(rendered) == {"perplexity"}

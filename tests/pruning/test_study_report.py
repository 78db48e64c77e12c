"""A pruning study claims only what it can show: macro averages, verdicts, the table and the plot."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from yunmin_assets.pruning import StudyConfig
from yunmin_assets.pruning.study import ArmCost
from yunmin_assets.pruning.study_comparison import HeldOut, compare, judge_all
from yunmin_assets.pruning.study_report import Arm, ArmFacts, report_on
from yunmin_assets.pruning.study_summary import describe_study

CONFIG = StudyConfig(bootstrap_samples=100)


def held_out_texts(documents: int, domains: tuple[str, ...] = ("가", "b")) -> HeldOut:
    """So many documents per domain; those of the second domain are three times as long."""
    rows = {domain: np.arange(documents) + place * documents for place, domain in enumerate(domains)}
    n_tokens = np.concatenate([np.full(documents, 10 * 3**place) for place in range(len(domains))])
    return HeldOut(rows, n_tokens, n_tokens * 4)


def test_the_macro_difference_weighs_domains_alike_and_a_clear_one_is_shown() -> None:
    texts = held_out_texts(50)
    control = texts.n_tokens * 4.0
    noise = np.random.default_rng(0).normal(scale=0.02, size=len(control))
    own = control + texts.n_tokens * (np.repeat([-0.3, 0.1], 50) + noise)
    compared = compare([own], [control], texts, CONFIG)
    domains = [
        float((own - control)[rows].sum() / texts.n_tokens[rows].sum()) for rows in texts.rows.values()
    ]
    assert compared.macro.difference == pytest.approx(np.mean(domains))
    assert [each.difference for each in compared.domains.values()] == pytest.approx(domains)
    assert compared.macro.low < np.mean(domains) < compared.macro.high < 0
    standard_error = np.sqrt(2 * (0.02**2 / 50)) / 2
    assert compared.macro.high - compared.macro.low == pytest.approx(2 * 1.96 * standard_error, rel=0.3)
    assert judge_all({"own": compared}, 0.95)["own"][0] == "better"
    assert judge_all({"own": compare([control], [own], texts, CONFIG)}, 0.95)["own"][0] == "worse"


def test_what_may_be_chance_is_not_shown() -> None:
    texts = held_out_texts(50)
    control = texts.n_tokens * 4.0
    same = compare([control], [control], texts, CONFIG)
    seeds_disagree = compare([control * 0.5, control * 1.1], [control, control], texts, CONFIG)
    assert seeds_disagree.macro.p_value < 0.05
    verdicts = judge_all({"same": same, "disagree": seeds_disagree}, 0.95)
    assert {verdict for verdict, _ in verdicts.values()} == {"not shown"}


def toy_report(documents: dict[str, int], seeds: int = 1) -> Any:
    """A report on made-up losses: `low` is better than `random` by one in ten."""
    ids = [f"{domain}-{number}" for domain, count in documents.items() for number in range(count)]
    table = pa.table(
        {
            "domain": [domain for domain, count in documents.items() for _ in range(count)],
            "id": ids,
            "n_tokens": [10] * len(ids),
            "n_bytes": [30] * len(ids),
        }
    )
    scores, facts = {}, {}
    for seed in range(seeds):
        for criterion, loss in (("low", 36.0), ("random", 40.0)):
            arm = Arm(criterion=criterion, rate=0.5, seed=seed)
            nll = np.full(len(ids), loss) + np.arange(len(ids)) % 3
            scores[arm] = table.append_column("nll", pa.array(nll))
            facts[arm] = ArmFacts(documents=9, tokens=99, trained_tokens=512, epochs=1.5, last_loss=2.0)
    return report_on(facts, scores, CONFIG)


def test_the_table_and_the_plot_show_every_arm_domain_and_verdict() -> None:
    report = toy_report({"law": 30, "food|x": 40, "tiny": 3}, seeds=2)
    costs = {f"{name}-0.5-seed{seed}": ArmCost(1.5, 0) for name in ("low", "random") for seed in (0, 1)}
    figures, rendered = describe_study(report, costs)
    assert (figures["arms"], figures["tokens_per_arm"], figures["cpu_seconds_of_arms"]) == (4, 512, 6.0)
    header, _, low, random = rendered["results"].splitlines()
    assert "`law`" in header and "`food`" in header and "`tiny`" in header
    assert "**better**" in low and "better" not in random
    assert "no: too few documents" in rendered["held_out"].splitlines()[-1]
    assert rendered["against_random"].startswith("![Held-out perplexity")
    assert "data:image/png;base64," in rendered["against_random"]
    assert "alone must not decide" in rendered["how_to_read"] and "2 trainings" in rendered["how_to_read"]
    assert len(rendered["cost"].splitlines()) == 6
    once = describe_study(toy_report({"law": 30}), costs)[1]
    assert "**better** in this one training" in once["results"] and "One training" in once["how_to_read"]


def test_a_domain_of_a_few_documents_is_shown_but_takes_no_part_in_averages() -> None:
    with_tiny, without = toy_report({"law": 30, "tiny": 3}), toy_report({"law": 30})
    assert "tiny" in with_tiny.selections[0].perplexity
    assert "tiny" not in with_tiny.selections[0].against_random.domains
    assert with_tiny.selections[0].macro_perplexity == without.selections[0].macro_perplexity
    assert with_tiny.selections[0].against_random == without.selections[0].against_random


def test_the_report_refuses_a_loss_that_is_not_finite() -> None:
    with pytest.raises(ValidationError):
        ArmFacts(documents=1, tokens=1, trained_tokens=1, epochs=1.0, last_loss=float("nan"))

"""What a person wants to see of a pruning study: a table, a plot, how to read them, and what the arms cost."""

import math
from collections.abc import Mapping

from yunmin_assets.plots import intervals, literal, markdown_table
from yunmin_assets.pruning.study import ArmCost
from yunmin_assets.pruning.study_report import Arm, Comparison, Difference, SelectionResult, StudyReport

MACRO = "macro average"
HOW_TO_READ = """\
Every arm was trained on equally many tokens, and measured on the same validation documents.

- **Held-out perplexity alone must not decide.** In arXiv 2405.20541 pruned data gave worse pre-training perplexity and
  better tasks. No downstream benchmark (KoBEST) is measured here yet.
- **Against random**: change in macro-average perplexity (the mean over domains of its logarithm) from random
  documents at the same rate; the interval comes from drawing the validation documents again. *not shown*: the
  difference may be chance.
- **Several epochs** of a small selection stand against few of a large one. With more tokens the order may change."""
ONE_SEED = """\
- **One training of each**: the interval says how sure the difference between *these two* models is. Another order of
  the same rows may turn it round. Raise `pruning_study.seeds` before you choose by it."""
SEVERAL_SEEDS = (
    "- **Seeds**: losses are the mean over {} trainings of each; a verdict needs the same sign in all."
)

Figures = dict[str, int | float]


def describe_study(report: StudyReport, costs: Mapping[str, ArmCost]) -> tuple[Figures, dict[str, str]]:
    """Figures of a study, and Markdown by name."""
    arms = _arms(report)
    seeds = len(report.selections[0].seeds)
    figures: Figures = {
        "arms": len(arms),
        "tokens_per_arm": report.selections[0].seeds[0].trained_tokens,
        "cpu_seconds_of_arms": sum(cost.cpu_seconds for cost in costs.values()),
    }
    rendered = {
        "results": result_table(report),
        "how_to_read": f"{HOW_TO_READ}\n{ONE_SEED if seeds == 1 else SEVERAL_SEEDS.format(seeds)}",
        "held_out": _held_out_table(report),
        "cost": _cost_table(report, costs),
    }
    if any(selection.against_random for selection in report.selections):
        rendered["against_random"] = difference_plot(report)
    return figures, rendered


def result_table(report: StudyReport) -> str:
    """A row for each criterion and rate."""
    header = ["criterion", "rate", "documents", "tokens selected", "epochs"]
    header += [f"PPL {literal(domain)}" for domain in report.held_out]
    header += ["macro PPL", "macro bits/byte", "against random"]
    return markdown_table(header, [_row(selection, report) for selection in report.selections])


def difference_plot(report: StudyReport) -> str:
    """By domain, each selection's perplexity against that of random documents at its rate."""
    series = {
        f"{selection.criterion} {selection.rate:g}": {
            MACRO: _percents(compared.macro),
            **{domain: _percents(each) for domain, each in compared.domains.items()},
        }
        for selection in report.selections
        if (compared := selection.against_random)
    }
    return intervals(
        series,
        title="Held-out perplexity against random documents (below 0: better)",
        ylabel="% of perplexity",
    )


def _row(selection: SelectionResult, report: StudyReport) -> list[object]:
    facts = selection.seeds
    return [
        selection.criterion,
        selection.rate,
        _mean_count([each.documents for each in facts]),
        _mean_count([each.tokens for each in facts]),
        f"{sum(each.epochs for each in facts) / len(facts):.2f}",
        *(f"{selection.perplexity[domain]:.2f}" for domain in report.held_out),
        _macro_cell(selection),
        f"{selection.macro_bits_per_byte:.4f}",
        _verdict_cell(selection.against_random, len(facts)),
    ]


def _macro_cell(selection: SelectionResult) -> str:
    of_seeds = selection.macro_perplexity_of_seeds
    spread = f" ({min(of_seeds):.2f} to {max(of_seeds):.2f})" if len(of_seeds) > 1 else ""
    return f"{selection.macro_perplexity:.2f}{spread}"


def _verdict_cell(compared: Comparison | None, seeds: int) -> str:
    if compared is None:
        return ""
    value, low, high = _percents(compared.macro)
    caution = " in this one training" if seeds == 1 and compared.verdict != "not shown" else ""
    return f"**{compared.verdict}**{caution}: {value:+.2f} % [{low:+.2f}, {high:+.2f}]"


def _percents(difference: Difference) -> tuple[float, float, float]:
    """A difference of log-perplexities as a change in perplexity."""
    value, low, high = (
        100 * math.expm1(each) for each in (difference.value, difference.low, difference.high)
    )
    return value, low, high


def _mean_count(counts: list[int]) -> int:
    return round(sum(counts) / len(counts))


def _held_out_table(report: StudyReport) -> str:
    rows = [
        (
            literal(domain),
            own.documents,
            own.tokens,
            own.bytes,
            "" if own.is_judged else "no: too few documents",
        )
        for domain, own in report.held_out.items()
    ]
    return markdown_table(["domain", "documents", "tokens", "bytes", "in the averages"], rows)


def _cost_table(report: StudyReport, costs: Mapping[str, ArmCost]) -> str:
    """CPU seconds of selecting, packing, training and measuring, in the process that finished the arm."""
    rows = [
        (arm.name, tokens, costs[arm.name].cpu_seconds, costs[arm.name].resumed_at)
        for arm, tokens in _arms(report).items()
    ]
    return markdown_table(["arm", "trained tokens", "CPU seconds", "counted from training step"], rows)


def _arms(report: StudyReport) -> dict[Arm, int]:
    """The tokens that every arm was trained on."""
    return {
        Arm(criterion=selection.criterion, rate=selection.rate, seed=seed): facts.trained_tokens
        for selection in report.selections
        for seed, facts in enumerate(selection.seeds)
    }

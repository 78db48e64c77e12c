"""What a pruning study found, as plain data: `study.json`."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.paired_bootstrap import PairedDifference, Verdict
from yunmin_assets.pruning.config import Criterion, StudyConfig
from yunmin_assets.pruning.study_comparison import Compared, Floats, HeldOut, compare, judge_all

Selection = tuple[Criterion, float]
"""A criterion at a rate."""


class Arm(ConfigModel):
    """One training: what it selects, and its seed."""

    criterion: Criterion
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.criterion}-{self.rate:g}-seed{self.seed}"

    @property
    def selection(self) -> Selection:
        return self.criterion, self.rate


class ReportModel(ConfigModel):
    """A part of the report; every number is finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class ArmFacts(ReportModel):
    """What one training had: `arm.json`."""

    documents: int
    """Selected, over all domains."""
    tokens: int
    """Of the selected documents, with one end-of-text token after each."""
    trained_tokens: int
    """Tokens that went through the model, the same in every arm."""
    epochs: float
    """How often the selection was seen."""
    last_loss: float
    """Training loss of the last ten steps, in nats per token."""


class HeldOutDomain(ReportModel):
    """A domain's validation documents on which every arm was measured."""

    documents: int
    tokens: int
    bytes: int
    is_judged: bool
    """Whether they are enough to take part in averages and verdicts."""


class Difference(ReportModel):
    """Mean loss minus that of the control, in nats per token, with its interval; below 0 is better."""

    value: float
    low: float
    high: float


class Comparison(ReportModel):
    """A selection against `random` at the same rate."""

    macro: Difference
    """Mean of the judged domains' differences: that of the logarithms of the macro perplexities."""
    domains: dict[str, Difference]
    """Judged domains, without correction for looking at several."""
    p_value: float
    """Of the macro difference, corrected for all comparisons of the study."""
    same_sign_in_every_seed: bool
    verdict: Verdict


class SelectionResult(ReportModel):
    """A criterion at a rate; losses are the mean over its seeds."""

    criterion: Criterion
    rate: float
    seeds: list[ArmFacts]
    perplexity: dict[str, float]
    """By domain, on its validation documents."""
    bits_per_byte: dict[str, float]
    macro_perplexity: float
    """exp of the mean over judged domains of log-perplexity."""
    macro_perplexity_of_seeds: list[float]
    macro_bits_per_byte: float
    against_random: Comparison | None
    """None for `random` itself, and for `none`, which has no control."""


class StudyReport(ReportModel):
    """`study.json`."""

    downstream_tasks: None = None
    """Not measured; held-out perplexity alone must not decide (arXiv 2405.20541)."""
    held_out: dict[str, HeldOutDomain]
    selections: list[SelectionResult]


def report_on(
    facts: Mapping[Arm, ArmFacts], scores: Mapping[Arm, pa.Table], config: StudyConfig
) -> StudyReport:
    """Average over seeds and compare with the controls.

    Args:
        facts: of every arm, in the order in which selections are reported.
        scores: of every arm, a table of `SCORE_SCHEMA` with a column `domain`, about the same documents in the same
            order.
        config: of the bootstrap.
    """
    held_out = HeldOut.of(next(iter(scores.values())))
    losses: dict[Selection, list[Floats]] = {arm.selection: [] for arm in facts}
    for arm, table in scores.items():
        losses[arm.selection].append(table["nll"].to_numpy())
    compared = {
        selection: compare(own, losses["random", selection[1]], held_out, config)
        for selection, own in losses.items()
        if selection[0] not in ("none", "random")
    }
    verdicts = judge_all(compared, config.confidence)
    selections = [
        _result(
            selection,
            [fact for arm, fact in facts.items() if arm.selection == selection],
            own,
            held_out,
            _comparison(compared[selection], *verdicts[selection]) if selection in compared else None,
        )
        for selection, own in losses.items()
    ]
    return StudyReport(held_out=_described(held_out), selections=selections)


def _result(
    selection: Selection,
    facts: list[ArmFacts],
    losses: Sequence[Floats],
    held_out: HeldOut,
    comparison: Comparison | None,
) -> SelectionResult:
    mean: Floats = np.mean(losses, axis=0)
    per_token, bits = held_out.loss_per_token(mean), held_out.bits_per_byte(mean)
    of_seeds = [math.exp(held_out.macro(held_out.loss_per_token(own))) for own in losses]
    return SelectionResult(
        criterion=selection[0],
        rate=selection[1],
        seeds=facts,
        perplexity={domain: math.exp(loss) for domain, loss in per_token.items()},
        bits_per_byte=bits,
        macro_perplexity=math.exp(held_out.macro(per_token)),
        macro_perplexity_of_seeds=of_seeds,
        macro_bits_per_byte=held_out.macro(bits),
        against_random=comparison,
    )


def _comparison(compared: Compared, verdict: Verdict, p_value: float) -> Comparison:
    return Comparison(
        macro=_difference(compared.macro),
        domains={domain: _difference(each) for domain, each in compared.domains.items()},
        p_value=p_value,
        same_sign_in_every_seed=compared.same_sign_in_every_seed,
        verdict=verdict,
    )


def _difference(measured: PairedDifference) -> Difference:
    return Difference(value=measured.difference, low=measured.low, high=measured.high)


def _described(held_out: HeldOut) -> dict[str, HeldOutDomain]:
    return {
        domain: HeldOutDomain(
            documents=len(rows),
            tokens=int(held_out.n_tokens[rows].sum()),
            bytes=int(held_out.n_bytes[rows].sum()),
            is_judged=domain in held_out.judged,
        )
        for domain, rows in held_out.rows.items()
    }

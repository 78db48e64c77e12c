"""What the evaluation report says, as plain data: `eval_report` fills it, `write_report` renders it.

Every number must be finite: NaN or infinity raises `pydantic.ValidationError` naming the field. An absent
measurement is None (or an empty list) and is shown as "not measured yet", never as 0.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.paired_bootstrap import Verdict

BASE, MINI, MERGED, JOINT = "base", "mini", "merged", "joint"
"""The models a report measures; the last one where `joint_adapter` was trained as the control of these adapters."""

FUNNEL_STAGES = ("raw", "clean", "deduped", "pruned")
"""Prefixes of the fields of `FunnelRow`, in the order of the graph."""


class ReportModel(ConfigModel):
    """A part of the report."""

    model_config = ConfigDict(allow_inf_nan=False)


class FunnelRow(ReportModel):
    """Documents and bytes of text (UTF-8) of one domain from raw to pruned, and its training tokens.

    Validation and test documents are never pruned, so they count among the pruned ones: what is missing
    there was really removed.
    """

    domain: str
    raw_documents: int = Field(ge=0)
    raw_bytes: int = Field(ge=0)
    clean_documents: int = Field(ge=0)
    clean_bytes: int = Field(ge=0)
    deduped_documents: int = Field(ge=0)
    deduped_bytes: int = Field(ge=0)
    pruned_documents: int = Field(ge=0)
    pruned_bytes: int = Field(ge=0)
    tokens: int = Field(ge=0)
    """Tokens that training sees."""

    @property
    def kept_share(self) -> float:
        """Share of the raw bytes that is left; 0 when there was nothing."""
        return self.pruned_bytes / self.raw_bytes if self.raw_bytes else 0.0


class DuplicateRecall(ReportModel):
    """How many of the known near-duplicate pairs lost at least one document."""

    threshold: float = Field(gt=0, le=1)
    """Jaccard similarity from which on two documents count as duplicates."""
    pairs: int = Field(ge=0)
    residual_pairs: int = Field(ge=0)
    """Pairs of which both documents were kept."""
    removed: int = Field(ge=0)
    false_removals: int = Field(ge=0)
    """Documents removed although no other document reaches the threshold."""

    @property
    def recall(self) -> float:
        """Share of the pairs that lost a document; 1 when there are none."""
        return 1 - self.residual_pairs / self.pairs if self.pairs else 1.0


class PerplexityCell(ReportModel):
    """One model on the test documents of one domain."""

    domain: str
    model: str
    """`base`, `uniform`, `mini` (the domain's own adapter), `joint`, `merged`, or any other name."""
    perplexity: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    bits_per_byte: float | None = None
    documents: int = Field(ge=1)
    tokens: int = Field(ge=1)
    difference: float | None = None
    """Mean loss minus that of the base, in nats per token; None for the base itself."""
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = Field(default=None, ge=0, le=1)
    """After Holm's correction over the domains."""
    verdict: Verdict | None = None

    @model_validator(mode="after")
    def _verdict_follows_the_difference(self) -> "PerplexityCell":
        sign = {"better": -1, "worse": 1}.get(self.verdict or "", 0)
        if sign and (self.difference is None or sign * self.difference <= 0):
            raise ValueError(
                f"verdict of {self.model} on {self.domain} is {self.verdict!r}, but its difference is {self.difference}"
            )
        return self


class CandidateRow(ReportModel):
    """One vector of domain weights and its loss on validation data."""

    candidate: str
    mean_nll: float | None
    """Mean over domains, in nats per token; None where it is not a finite number."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Per domain; absent where every tensor has its own, and of controls."""
    control: bool = False
    """Only there to be compared with: never chosen."""
    chosen: bool = False


class Generation(ReportModel):
    """What each model wrote after one prompt."""

    prompt_id: str
    kind: str
    """knowledge, conversation, explanation, summary, translation, code or poem."""
    prompt: str
    domain: str | None = None
    reference: str | None = None
    """A good answer, where there is one."""
    continuations: dict[str, str]
    """Greedy text per model, the prompt not repeated."""
    sampled: dict[str, str] = Field(default_factory=dict)
    """Sampled text per model."""


class Difference(ReportModel):
    """A model against the base (or what else the row names), with the interval and the corrected verdict."""

    difference: float
    low: float
    high: float
    p_value: float = Field(ge=0, le=1)
    """After Holm's correction."""
    verdict: Verdict


class TextScoreRow(ReportModel):
    """One model's answers against references; scores from 0 to 100."""

    model: str
    texts: int = Field(ge=0)
    not_written: tuple[str, ...] = ()
    """Prompts without an answer, and why: they count, with 0."""
    bleu_morpheme: float
    bleu_character: float
    chrf: float
    rouge_1_morpheme: float
    rouge_2_morpheme: float
    rouge_l_morpheme: float
    rouge_l_character: float
    signatures: dict[str, str] = Field(default_factory=dict)
    """What was computed how, by sacreBLEU's own words."""


class CriterionRow(Difference):
    """One of the owner's criteria by computable rules; scores from 0 to 1, above 0 the model is better."""

    criterion: str
    title: str
    """The criterion's Korean name."""
    decoding: str
    model: str
    prompts: int = Field(ge=1)
    nothing_written: int = Field(default=0, ge=0)
    """Prompts after which the model wrote nothing, or not numbers: they count, with 0."""
    base: float = Field(ge=0, le=1)
    score: float = Field(ge=0, le=1)


class HumanRow(ReportModel):
    """One criterion as a person scored it blind: merged against base."""

    criterion: str
    wins: int = Field(ge=0)
    ties: int = Field(ge=0)
    losses: int = Field(ge=0)
    unrated: int = Field(default=0, ge=0)
    p_value: float = Field(ge=0, le=1)
    verdict: Verdict


class ChoiceRow(ReportModel):
    """One model on one multiple-choice benchmark; accuracies from 0 to 1."""

    benchmark: str
    model: str
    metric: str
    items: int = Field(ge=1)
    items_in_file: int = Field(ge=1)
    left_out: tuple[str, ...] = ()
    """Items of the file that cannot be asked, and why."""
    unanswered: tuple[str, ...] = ()
    """Items without an answer, and why: they count as wrong."""
    accuracy: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    """Wilson's score interval."""
    macro_f1: float = Field(ge=0, le=1)
    chance: float = Field(ge=0, le=1)
    constant: float = Field(ge=0, le=1)
    """Accuracy of the answer that is right most often."""
    against_base: Difference | None = None
    """Difference of accuracies (McNemar); above 0 the model is better."""


class ChoiceChangeRow(Difference):
    """A model against itself in the last report on one benchmark (McNemar); above 0 it is better now."""

    benchmark: str
    items: int = Field(ge=1)
    """Items that both reports asked in the same way."""
    before: float = Field(ge=0, le=1)
    now: float = Field(ge=0, le=1)
    """Accuracies on these items."""


class ContaminatedRow(ReportModel):
    """An evaluation item much of which stands in the training text."""

    item: str
    share: float = Field(ge=0, le=1)
    domain: str
    document: str
    excerpt: str


class ContaminationRow(ReportModel):
    """How much of one evaluation set stands in the training text."""

    name: str
    ngram: int = Field(ge=1)
    items: int = Field(ge=0)
    too_short: int = Field(default=0, ge=0)
    """Items that were not compared, having fewer characters than an n-gram."""
    too_short_items: tuple[str, ...] = ()
    """Their ids."""
    any_share: float | None = Field(default=None, ge=0, le=1)
    """Share of items of which any n-gram was found; None when there was none to compare."""
    mostly_share: float | None = Field(default=None, ge=0, le=1)
    """Share of items of which at least half of the n-grams were found."""
    worst: tuple[ContaminatedRow, ...] = ()
    """All items of which at least half was found, and up to five where fewer are; most found first."""


class ChangeRow(Difference):
    """The merged model against that of the last report on one domain, in bits per byte; below 0 it is better."""

    domain: str
    documents: int = Field(ge=1)
    before: float
    now: float


class CostRow(ReportModel):
    """What one stage cost, summed over its domains."""

    stage: str
    snapshots: int = Field(default=1, ge=1)
    wall_seconds: float = Field(ge=0)
    cpu_seconds: float = Field(ge=0)
    gpu_seconds: float = Field(default=0.0, ge=0)
    peak_memory_bytes: int = Field(ge=0)
    """The largest of its domains."""
    bytes_in: int = Field(ge=0)
    bytes_out: int = Field(ge=0)
    tokens: int = Field(default=0, ge=0)


class Measurement(ReportModel):
    """What was measured for one expectation."""

    measured: str
    baseline: str
    how: str
    met: bool | None = None
    """None when the measurement can neither confirm nor refute the expectation."""


class ExpectationRow(ReportModel):
    """One line of the owner's table."""

    claim: str
    expected: str
    measurement: Measurement | None = None

    @property
    def status(self) -> str:
        """`met`, `not met`, `open` or `not measured yet`."""
        if self.measurement is None:
            return "not measured yet"
        return {True: "met", False: "not met", None: "open"}[self.measurement.met]


OWNER_EXPECTATIONS = {
    "bytes_removed": ("Less data", "up to 50 % of the bytes removed"),
    "training_cost": ("Cheaper training", "70-90 % cheaper"),
    "loading_speed": ("Faster loading", "up to 5× faster than JSONL"),
    "memory": ("Less memory", "up to 80 % less"),
    "quality": ("A better model", "better than the base on every domain"),
}


def owner_expectations(measurements: Mapping[str, Measurement]) -> tuple[ExpectationRow, ...]:
    """The owner's table; what has no measurement is shown as not measured yet.

    Raises:
        ValueError: a key is not one of `OWNER_EXPECTATIONS`.
    """
    unknown = sorted(set(measurements) - set(OWNER_EXPECTATIONS))
    if unknown:
        raise ValueError(f"unknown expectation {unknown[0]!r}: choose from {', '.join(OWNER_EXPECTATIONS)}")
    return tuple(
        ExpectationRow(claim=claim, expected=expected, measurement=measurements.get(key))
        for key, (claim, expected) in OWNER_EXPECTATIONS.items()
    )


class Report(ReportModel):
    """The whole report."""

    title: str = "YunMin EfficientData"
    created: str
    """Date and time, ISO 8601."""
    corpus: str
    """What the domains are, in a few words."""
    synthetic: bool
    """Whether any training or test document is synthetic: the page then says so at the top."""
    base_model: str
    confidence: float = Field(default=0.95, gt=0, lt=1)
    bootstrap_samples: int = Field(default=1000, ge=1)
    funnel: tuple[FunnelRow, ...] = ()
    duplicate_recall: DuplicateRecall | None = None
    perplexity: tuple[PerplexityCell, ...] = ()
    """At most one cell per domain and model."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Weight per domain of the merged model."""
    candidates: tuple[CandidateRow, ...] = ()
    generations: tuple[Generation, ...] = ()
    criteria: tuple[CriterionRow, ...] = ()
    text_scores: tuple[TextScoreRow, ...] = ()
    human: tuple[HumanRow, ...] = ()
    rated_report: str | None = None
    """When the report was made whose blind sheet was rated."""
    rated_models_are_current: bool = True
    """Whether base and merged model were then what they are now; if not, the ratings give no verdict on them."""
    human_errors: tuple[str, ...] = ()
    """Ratings that could not be used, and why."""
    choices: tuple[ChoiceRow, ...] = ()
    choice_changes: tuple[ChoiceChangeRow, ...] = ()
    """The merged model against that of the last report."""
    contamination: tuple[ContaminationRow, ...] = ()
    last_report: str | None = None
    """When the report was made that `changes` compares with."""
    changes: tuple[ChangeRow, ...] = ()
    cost: tuple[CostRow, ...] = ()
    expectations: tuple[ExpectationRow, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know before quoting a number."""
    versions: dict[str, str] = Field(default_factory=dict)
    seeds: dict[str, int] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    """Content of every snapshot and file behind the report."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of the evaluation."""

    @model_validator(mode="after")
    def _no_cell_twice(self) -> "Report":
        seen: set[tuple[str, str]] = set()
        for cell in self.perplexity:
            if (cell.domain, cell.model) in seen:
                raise ValueError(f"perplexity has two cells for {cell.model} on {cell.domain}: leave one out")
            seen.add((cell.domain, cell.model))
        return self

"""A made-up report: every number in it is invented to look at the page, none was measured."""

from collections.abc import Mapping

from yunmin_assets.evaluation.model import (
    CandidateRow,
    CostRow,
    DuplicateRecall,
    FunnelRow,
    Generation,
    Measurement,
    PerplexityCell,
    Report,
    owner_expectations,
)
from yunmin_assets.paired_bootstrap import Verdict

DOMAINS = ("korean_textbook", "national_assembly_data", "web_data", "social_media_data", "papers_data")
BASE = (118.4, 64.9, 241.7, 1312.0, 77.3)
DIFFERENCES: Mapping[str, tuple[float, ...]] = {
    "uniform": (-0.021, -0.034, -0.009, 0.004, -0.028),
    "mini": (-0.081, -0.093, -0.041, -0.037, -0.088),
    "merged": (-0.058, -0.071, -0.018, 0.021, -0.062),
}
SHOWN_FROM = 0.02
HOSTILE = "<script>alert('모델이 쓴 태그')</script> & 다음"


def fixture_report() -> Report:
    """The report that the tests render and that a person can look at."""
    return Report(
        title="YunMin EfficientData",
        created="2025-11-21T22:30:00+09:00",
        corpus="FIXTURE: five invented domains, no number here was measured",
        synthetic=True,
        base_model="scratch Mamba-2, 0.6 M parameters",
        funnel=tuple(_funnel_row(domain, number) for number, domain in enumerate(DOMAINS)),
        duplicate_recall=DuplicateRecall(
            threshold=0.8, pairs=1771, residual_pairs=2, removed=1204, false_removals=0
        ),
        perplexity=tuple(_cells()),
        weights=dict(zip(DOMAINS, (0.412, 0.388, 0.151, -0.024, 0.297), strict=True)),
        candidates=_candidates(),
        generations=_generations(),
        cost=_cost(),
        expectations=owner_expectations(_measurements()),
        notes=("This is a fixture of the tests: all figures are invented.",),
        versions={
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "yunmin-efficientdata": "0.1.0",
        },
        seeds={"corpus": 0, "training": 0, "bootstrap": 0},
        hashes={"base_model": "9f2c41d0a7b3", "merged_model": "41b7e09d5c1e", "test split": "c0ffee123456"},
    )


def _funnel_row(domain: str, number: int) -> FunnelRow:
    raw = 2_000 + number
    return FunnelRow(
        domain=domain,
        raw_documents=raw,
        raw_bytes=raw * (1700 + 90 * number),
        clean_documents=raw - 15,
        clean_bytes=(raw - 15) * (1698 + 90 * number),
        deduped_documents=raw - 260 - 40 * number,
        deduped_bytes=(raw - 260 - 40 * number) * (1690 + 90 * number),
        pruned_documents=(raw - 260) // 2,
        pruned_bytes=(raw - 260) // 2 * (1650 + 80 * number),
        tokens=(raw - 260) * 4 // 10 * 410,
    )


def _cells() -> list[PerplexityCell]:
    cells = []
    for number, (domain, base) in enumerate(zip(DOMAINS, BASE, strict=True)):
        for model in ("base", *DIFFERENCES):
            change = DIFFERENCES[model][number] if model in DIFFERENCES else 0.0
            value = base * (1 + change)
            cells.append(
                PerplexityCell(
                    domain=domain,
                    model=model,
                    perplexity=value,
                    low=value * 0.93,
                    high=value * 1.08,
                    bits_per_byte=1.91 + change,
                    documents=100,
                    tokens=41_220,
                    difference=None if model == "base" else change,
                    difference_low=None if model == "base" else change - 0.014,
                    difference_high=None if model == "base" else change + 0.016,
                    p_value=None if model == "base" else (0.0004 if abs(change) > SHOWN_FROM else 0.21),
                    verdict=None if model == "base" else _verdict(change),
                )
            )
    return cells


def _verdict(change: float) -> Verdict:
    if abs(change) <= SHOWN_FROM:
        return "not shown"
    return "better" if change < 0 else "worse"


def _candidates() -> tuple[CandidateRow, ...]:
    weights = {
        "base": (0.0,) * 5,
        "uniform": (0.2,) * 5,
        "only korean_textbook": (1.0, 0.0, 0.0, 0.0, 0.0),
        "searched": (0.412, 0.388, 0.151, -0.024, 0.297),
    }
    losses = (4.912, 4.887, 4.903, 4.861)
    return tuple(
        CandidateRow(
            candidate=name,
            mean_nll=loss,
            weights=dict(zip(DOMAINS, values, strict=True)),
            chosen=name == "searched",
        )
        for (name, values), loss in zip(weights.items(), losses, strict=True)
    )


def _generations() -> tuple[Generation, ...]:
    return (
        Generation(
            prompt_id="knowledge-1",
            kind="knowledge",
            domain="korean_textbook",
            prompt="식물은 햇빛을 받아 스스로 양분을 만드는데, 이것을",
            continuations={
                "base": " 것이 있는 것이 있는 것이 있는 것이",
                "merged": " 광합성이라고 해요. 뿌리에서 빨아들인 물은 잎까지 올라가요.",
            },
        ),
        Generation(
            prompt_id="conversation-1",
            kind="conversation",
            prompt="민지: 야 유진, 이번 주말에 뭐 해?\n유진:",
            continuations={"base": " ㅋㅋㅋ 나 지금 콘서트", "merged": HOSTILE},
        ),
    )


def _cost() -> tuple[CostRow, ...]:
    stages = (
        "clean_corpus",
        "signatures",
        "duplicate_clusters",
        "reference_model",
        "perplexity",
        "lora_adapter",
    )
    return tuple(
        CostRow(
            stage=stage,
            snapshots=5 if number < 2 else 1,
            wall_seconds=0.4 * 4.1**number,
            cpu_seconds=0.7 * 4.2**number,
            peak_memory_bytes=210_000_000 + 90_000_000 * number,
            bytes_in=17_000_000 // (number + 1),
            bytes_out=9_000_000 // (number + 1),
            tokens=0 if number < 3 else 812_000,
        )
        for number, stage in enumerate(stages)
    )


def _measurements() -> dict[str, Measurement]:
    return {
        "bytes_removed": Measurement(
            measured="58.1 % removed",
            baseline="raw text of all five domains",
            how="bytes of text, raw_corpus against pruned_corpus (half of it by pruning)",
            met=True,
        ),
        "loading_speed": Measurement(
            measured="3.1× faster",
            baseline="JSONL tokenised on the fly",
            how="benchmarks/loading.py, tokens per second, one process",
            met=False,
        ),
        "quality": Measurement(
            measured="better on 3 of 5 domains",
            baseline="base model",
            how="test perplexity, paired bootstrap by document, Holm",
            met=False,
        ),
    }

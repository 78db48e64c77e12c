"""A made-up report: every number in it is invented to look at the page, none was measured."""

from collections.abc import Mapping

from yunmin_assets.evaluation.model import (
    CandidateRow,
    ChangeRow,
    ChoiceRow,
    ContaminatedRow,
    ContaminationRow,
    CostRow,
    CriterionRow,
    Difference,
    DuplicateRecall,
    FunnelRow,
    Generation,
    HumanRow,
    Measurement,
    PerplexityCell,
    Report,
    TextScoreRow,
    owner_expectations,
)
from yunmin_assets.paired_bootstrap import Verdict

DOMAINS = ("korean_textbook", "national_assembly_data", "web_data", "social_media_data", "papers_data")
BASE = (118.4, 64.9, 241.7, 1312.0, 77.3)
DIFFERENCES: Mapping[str, tuple[float, ...]] = {
    "uniform": (-0.021, -0.034, -0.009, 0.004, -0.028),
    "mini": (-0.081, -0.093, -0.041, -0.037, -0.088),
    "joint": (-0.049, -0.062, -0.022, 0.009, -0.055),
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
        criteria=_criteria(),
        text_scores=_text_scores(),
        human=_human(),
        human_errors=(f"poem-{HOSTILE}: the sheet has no such prompt",),
        choices=_choices(),
        contamination=_contamination(),
        last_report="2025-11-14T09:05:00+09:00",
        changes=_changes(),
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
            sampled={
                "base": " 이것은 우리가 살고 있는 곳에서 가장 많이 볼 수 있는 것 가운데 하나로",
                "merged": " 광합성이라 합니다.",
            },
        ),
        Generation(
            prompt_id="translation-1",
            kind="translation",
            prompt="영어를 한국어로 옮기세요.\nThe library closes at nine.\n한국어:",
            reference="도서관은 아홉 시에 문을 닫습니다.",
            continuations={"base": "", "merged": " 도서관은 아홉 시에 닫아요."},
            sampled={"base": "(the logits of token 1 are not finite numbers)", "merged": HOSTILE},
        ),
        Generation(
            prompt_id="conversation-1",
            kind="conversation",
            prompt="민지: 야 유진, 이번 주말에 뭐 해?\n유진:",
            continuations={"base": " ㅋㅋㅋ 나 지금 콘서트", "merged": HOSTILE},
        ),
    )


def _criteria() -> tuple[CriterionRow, ...]:
    titles = {"informativeness": "정보성", "naturalness": "자연스러움", "consistency": "일관성"}
    return tuple(
        CriterionRow(
            criterion=criterion,
            title=title,
            decoding=decoding,
            model="merged",
            prompts=40,
            nothing_written=number,
            base=0.412,
            score=0.412 + change,
            difference=change,
            low=change - 0.03,
            high=change + 0.03,
            p_value=0.0004 if abs(change) > SHOWN_FROM else 1.0,
            verdict=_verdict(-change),
        )
        for decoding in ("greedy", "sampled")
        for number, (change, (criterion, title)) in enumerate(
            zip((0.081, -0.052, 0.0), titles.items(), strict=True)
        )
    )


def _text_scores() -> tuple[TextScoreRow, ...]:
    signatures = {
        "bleu_morpheme": "nrefs:var|case:mixed|eff:yes|tok:ko-mecab-0.996/ko-0.9.2-KO|smooth:exp|version:2.6.0",
        "chrf": "nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
        "rouge_morpheme": "f1|best reference, mean of texts|case:mixed|form:NFC|tok:kiwi-0.22.1-cong-0.22.1",
        "hostile": HOSTILE,
    }
    return tuple(
        TextScoreRow(
            model=model,
            texts=11,
            not_written=not_written,
            bleu_morpheme=score,
            bleu_character=score + 4,
            chrf=score + 9,
            rouge_1_morpheme=score + 12,
            rouge_2_morpheme=score / 3,
            rouge_l_morpheme=score + 8,
            rouge_l_character=score + 15,
            signatures=signatures,
        )
        for model, score, not_written in (
            ("base", 4.21, ("translation-1: nothing was written", f"{HOSTILE}: nothing was written")),
            ("merged", 6.9, ()),
        )
    )


def _human() -> tuple[HumanRow, ...]:
    return (
        HumanRow(criterion="정보성", wins=24, ties=6, losses=8, unrated=2, p_value=0.0211, verdict="better"),
        HumanRow(criterion=HOSTILE, wins=9, ties=22, losses=9, p_value=1.0, verdict="not shown"),
    )


def _choices() -> tuple[ChoiceRow, ...]:
    benchmarks = {"kobest_boolq_dev": 0.5, "kobest_hellaswag_dev": 0.25, "KMMLU-Criminal-Law_test": 0.25}
    return tuple(
        ChoiceRow(
            benchmark=benchmark,
            model=model,
            metric="acc_norm" if "hellaswag" in benchmark else "acc",
            items=500,
            items_in_file=701,
            left_out=tuple(f"item {number}: answer is {HOSTILE}, none of 1, 2" for number in range(1, 26)),
            unanswered=("item 44: the log-likelihood of choice 2 is nan",) if model == "joint" else (),
            accuracy=chance + change,
            low=chance + change - 0.04,
            high=chance + change + 0.04,
            macro_f1=chance + change - 0.02,
            chance=chance,
            constant=chance + 0.02,
            against_base=None
            if model == "base"
            else Difference(
                difference=change, low=change - 0.05, high=change + 0.05, p_value=0.4, verdict="not shown"
            ),
        )
        for benchmark, chance in benchmarks.items()
        for model, change in (("base", 0.0), ("merged", 0.021), ("joint", -0.013))
    )


def _contamination() -> tuple[ContaminationRow, ...]:
    worst = ContaminatedRow(
        item="knowledge-1",
        share=0.625,
        domain="korean_textbook",
        document="korean_textbook-000917",
        excerpt=f"{HOSTILE} 식물은 햇빛을 받아 스스로 양분을 만드는데 이것을 광합성이라고 한다",
    )
    return (
        ContaminationRow(
            name="prompts",
            ngram=13,
            items=39,
            too_short=1,
            any_share=0.256,
            mostly_share=0.026,
            worst=(worst,),
        ),
        ContaminationRow(
            name="kobest_boolq_dev", ngram=13, items=701, any_share=0.0, mostly_share=0.0, worst=()
        ),
        ContaminationRow(name="KMMLU-Criminal-Law_test", ngram=13, items=0, too_short=3),
    )


def _changes() -> tuple[ChangeRow, ...]:
    return tuple(
        ChangeRow(
            domain=domain,
            documents=88,
            before=1.90,
            now=1.90 + change,
            difference=change,
            low=change - 0.01,
            high=change + 0.01,
            p_value=0.001,
            verdict=_verdict(change),
        )
        for domain, change in zip(DOMAINS[:3], (-0.031, 0.024, 0.0), strict=True)
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

"""What models write is shown as written, scored by name, and a model never beats itself."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.evaluation.tiny_models import save_broken_model, save_twins
from yunmin_assets.evaluation.blind_sheet import Pair
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.generations import (
    Prompt,
    Written,
    blind_pairs,
    judge_by_rules,
    read_prompts,
    score_against_references,
    side_by_side,
    write_continuations,
)
from yunmin_assets.evaluation.scoring_config import load_scoring_rules
from yunmin_assets.evaluation.scoring_rules import FEWEST_PROMPTS
from yunmin_assets.language_model.generation import Continuation

CONFIGS = Path(__file__).parents[2] / "configs"
RULES = load_scoring_rules(CONFIGS / "scoring_rules.yaml")
CONFIG = EvaluationConfig(bootstrap_samples=100, max_new_tokens=8)
PROMPT = '{"id": "1", "kind": "poem", "prompt": "봄"}'
REFERENCE = "도서관은 아홉 시에 문을 닫습니다."
PROMPTS = [
    Prompt(id="translation-1", kind="translation", prompt="옮기세요: The library", reference=REFERENCE),
    Prompt(id="poem-1", kind="poem", prompt="봄이 오면", domain="web_data"),
]


def hand_written(
    greedy: Mapping[str, Sequence[str]], sampled: Mapping[str, Sequence[str]] | None = None
) -> Written:
    """Texts as if models had written them."""
    decodings = {"greedy": greedy, "sampled": greedy if sampled is None else sampled}
    return {
        decoding: {
            model: [Continuation(text, 9, True) for text in texts] for model, texts in by_model.items()
        }
        for decoding, by_model in decodings.items()
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "2"}', r"kind Field required; prompt Field required"),
        ("봄", r"Invalid JSON"),
        ("[1]", r"\(Input should be an object"),
        ('{"id": 2, "kind": "poem", "prompt": "봄"}', r"\(id Input should be a valid string"),
        ('{"id": "2", "kind": "poem", "prompt": " \\n"}', r"\(prompt String should match"),
        ('{"id": "2", "kind": "poem", "prompt": "봄", "reference": ""}', r"\(reference String should match"),
        ('{"id": "2", "kind": "poem", "prompt": "봄", "refrence": "x"}', r"\(refrence Extra inputs"),
        ('{"id": "2", "kind": "poem", "prompt": "\\ud83d"}', r"Invalid JSON"),
        (PROMPT, r"the id '1' is there twice"),
    ],
)
def test_a_bad_prompt_is_named_with_file_line_and_field(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{PROMPT}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"prompts\.jsonl, line 3: .*{reason}"):
        read_prompts(path)


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n")
    with pytest.raises(ValueError, match=r"prompts\.jsonl holds no prompt"):
        read_prompts(path)


def test_an_identical_model_is_not_shown_to_differ_on_any_criterion(tmp_path: Path) -> None:
    prompts = read_prompts(CONFIGS / "eval_prompts.jsonl")[:FEWEST_PROMPTS]
    written = write_continuations(save_twins(tmp_path), prompts, CONFIG)
    rows = judge_by_rules(prompts, written, RULES, CONFIG)
    assert [(row.decoding, row.criterion) for row in rows] == [
        (decoding, criterion) for decoding in ("greedy", "sampled") for criterion in RULES.criteria
    ]
    for row in rows:
        assert (row.model, row.prompts, row.base) == ("merged", FEWEST_PROMPTS, row.score)
        assert (row.difference, row.low, row.high, row.p_value, row.verdict) == (0, 0, 0, 1.0, "not shown")
    assert all(pair.base == pair.merged for pair in blind_pairs(prompts, written))
    greedy, sampled = (written[name]["base"] for name in ("greedy", "sampled"))
    assert greedy != sampled and all(text.n_tokens <= 8 for text in (*greedy, *sampled))


def test_a_broken_model_scores_nothing_and_every_prompt_says_why(tmp_path: Path) -> None:
    models = {"base": save_twins(tmp_path)["base"], "merged": save_broken_model(tmp_path / "broken")}
    lines: list[str] = []
    written = write_continuations(models, PROMPTS, CONFIG, log=lines.append)
    assert any(line.startswith("merged, greedy: after the prompt '봄이 오면'") for line in lines)
    for row in judge_by_rules(PROMPTS, written, RULES, CONFIG):
        assert (row.nothing_written, row.score) == (2, 0.0)
        assert math.isfinite(row.difference) and row.verdict == "not shown"  # two prompts show nothing
    for generation in side_by_side(PROMPTS, written):
        problem = "(the logits of token 1 are not finite numbers)"
        assert generation.continuations["merged"] == generation.sampled["merged"] == problem
        assert "logits" not in generation.continuations["base"]
    _, scores = score_against_references(PROMPTS, written)
    assert (scores.model, scores.texts, scores.chrf) == ("merged", 1, 0.0)
    assert scores.not_written == ("translation-1: the logits of token 1 are not finite numbers",)


def test_a_text_that_broke_off_is_no_answer_however_much_of_it_there_is() -> None:
    problem = "the logits of token 13 are not finite numbers"
    whole, broken = (Continuation(REFERENCE[:-5], 12, False, each) for each in (None, problem))
    written = {
        decoding: {"base": [whole, whole], "merged": [broken, whole]} for decoding in ("greedy", "sampled")
    }
    base, merged = score_against_references(PROMPTS, written)
    assert (base.not_written, base.chrf > 50) == ((), True)
    assert merged.not_written == (f"translation-1: {problem}",)
    assert merged.bleu_character == merged.chrf == merged.rouge_1_morpheme == merged.rouge_l_character == 0
    first, second = blind_pairs(PROMPTS, written)
    assert (first.base, first.merged, first.problem) == (REFERENCE[:-5], "", problem)
    assert second.problem is None


def test_greedy_and_sampled_texts_stand_with_their_prompt() -> None:
    written = hand_written(
        {"base": ["가", "나"], "merged": ["다", ""]}, {"base": ["마", "바"], "merged": ["사", "아"]}
    )
    first, second = side_by_side(PROMPTS, written)
    assert (first.prompt_id, first.reference) == ("translation-1", REFERENCE)
    assert (second.domain, second.kind) == ("web_data", "poem")
    assert second.continuations == {"base": "나", "merged": ""}
    assert second.sampled == {"base": "바", "merged": "아"}


def test_a_person_compares_the_greedy_texts() -> None:
    written = hand_written(
        {"base": ["가", "나"], "merged": ["다", "라"]}, {"base": ["", ""], "merged": ["", ""]}
    )
    assert blind_pairs(PROMPTS, written)[1] == Pair("poem-1", "poem", "봄이 오면", "나", "라")


def test_only_texts_with_a_reference_are_scored_against_it() -> None:
    written = hand_written({"base": ["", "아무 글"], "merged": [REFERENCE, ""]})
    base, merged = score_against_references(PROMPTS, written)
    assert (base.model, base.texts) == ("base", 1)
    assert base.not_written == ("translation-1: nothing was written",)
    assert (base.bleu_morpheme, base.chrf, base.rouge_l_character) == (0.0, 0.0, 0.0)
    assert (merged.model, merged.texts, merged.not_written) == ("merged", 1, ())
    for score in (merged.bleu_morpheme, merged.bleu_character, merged.chrf, merged.rouge_2_morpheme):
        assert score == pytest.approx(100.0)
    assert set(base.signatures) == {
        "bleu_morpheme",
        "bleu_character",
        "chrf",
        "rouge_morpheme",
        "rouge_character",
    }


def test_without_a_reference_there_are_no_scores() -> None:
    assert score_against_references(PROMPTS[1:], hand_written({"base": ["가"], "merged": ["나"]})) == []

"""A text that comes back after other prompts answers none; and what no rule can tell, as docs/evaluation.md says."""

from collections.abc import Mapping
from statistics import fmean

import pytest

from tests.evaluation.good_answers import CRITERIA, GOOD, PROMPTS, REFERENCES, RULES, answer
from yunmin_assets.evaluation.scoring_rules import score_generations

STOCK = (
    "오늘은 날씨가 맑아서 친구와 함께 공원을 걸었다. 나무 아래에서 도시락을 먹고 이야기를 나누었다.\n"
    "저녁에는 집으로 돌아와 책을 읽었다."
)


def means(texts: Mapping[str, str]) -> dict[str, float]:
    """The report's figures of a model that wrote these texts."""
    scores = score_generations([answer(prompt_id, text) for prompt_id, text in texts.items()], RULES)
    return {name: round(fmean(each.criteria[name] for each in scores), 2) for name in CRITERIA}


def sameness_scores(texts: Mapping[str, str]) -> list[float]:
    scores = score_generations([answer(prompt_id, text) for prompt_id, text in texts.items()], RULES)
    return [each.rules["sameness"].score for each in scores]


@pytest.mark.parametrize(
    "text", [STOCK, "네, 그렇습니다.", "네.", "print(x)\ny = 1", "I do not know the answer."]
)
def test_a_text_that_answers_every_prompt_scores_nothing(text: str) -> None:
    assert means(dict.fromkeys(PROMPTS, text)) == dict.fromkeys(CRITERIA, 0.0)


def test_a_text_that_only_counts_the_prompts_scores_nothing() -> None:
    assert max(means({name: f"{n}번째. {STOCK}" for n, name in enumerate(PROMPTS)}).values()) == 0


def test_human_answers_have_next_to_nothing_in_common() -> None:
    assert sameness_scores(REFERENCES | GOOD) == [1.0] * len(REFERENCES | GOOD)
    assert means(GOOD) == dict.fromkeys(CRITERIA, 0.99)


def test_a_text_of_which_half_is_said_elsewhere_loses_little() -> None:
    half, others = STOCK[:40], (GOOD["poem-2"].strip()[:40], GOOD["summary-1"].strip()[:40])
    texts = dict(zip(("poem-2", "summary-1"), (half + other for other in others), strict=True))
    assert sameness_scores(texts) == pytest.approx([(0.8 - 33 / 73) / 0.4] * 2, abs=0.02)


def test_a_short_answer_is_the_same_only_as_a_whole() -> None:
    assert sameness_scores({"knowledge-3": "한강", "poem-1": "한강 위에 눈이 내린다"}) == [1.0, 1.0]
    assert sameness_scores({"knowledge-3": "한강", "poem-1": " 한강\n"}) == [0.0, 0.0]


@pytest.mark.parametrize("others", [{}, {"poem-1": ""}])
def test_without_another_answer_nothing_is_said_about_sameness(others: Mapping[str, str]) -> None:
    texts = {"knowledge-1": GOOD["knowledge-1"], **others}
    first = score_generations([answer(prompt_id, text) for prompt_id, text in texts.items()], RULES)[0]
    assert "sameness" not in first.rules and min(first.criteria.values()) >= 0.8


# --- what the rules cannot tell: the figures in docs/evaluation.md -------------------------------------------


@pytest.mark.parametrize(
    ("text", "figures"), [("비의 양이다.", (0.80, 1.0, 0.77)), ("네, 그렇습니다.", (0.84, 1.0, 0.77))]
)
def test_a_nod_alone_passes_as_a_short_answer(text: str, figures: tuple[float, ...]) -> None:
    assert tuple(means({"knowledge-2": text}).values()) == figures


def test_different_good_texts_on_other_subjects_lose_little() -> None:
    prose = ("knowledge", "conversation", "explanation", "poem")
    asked = [name for name in GOOD if PROMPTS[name]["kind"] in prose]
    texts = [GOOD[name] for name in asked[4:] + asked[:4]]
    assert tuple(means(dict(zip(asked, texts, strict=True))).values()) == (0.85, 0.99, 0.74)

"""Good text scores clearly above broken text on every criterion, and nothing is judged without a reason.

The broken answers below that are not made from good ones were written for these tests.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.good_answers import (
    CRITERIA,
    GOOD,
    PROMPTS,
    RULES,
    RULES_FILE,
    answer,
    found,
    scored,
)
from yunmin_assets.evaluation.scoring_config import Ramp, ScoringRules, load_scoring_rules
from yunmin_assets.evaluation.scoring_rules import (
    FEWEST_PROMPTS,
    RuleScores,
    compare_criteria,
    score_generations,
)
from yunmin_assets.evaluation.text_rules import Answer

CLEARLY = 0.3
"""Good text must score this much above broken text."""


def loop(text: str, prompt: str) -> str:
    return (text.strip()[:8] + " ") * 12


def counting_loop(text: str, prompt: str) -> str:
    return "".join(f"제{number}조 {text.strip()[:5]}\n" for number in range(12))


def read_as_cp949(text: str, prompt: str) -> str:
    return text.encode().decode("cp949", "replace")


def read_as_latin_1(text: str, prompt: str) -> str:
    return text.encode().decode("latin-1")


def parrot(text: str, prompt: str) -> str:
    return prompt


@pytest.mark.parametrize("prompt_id", GOOD)
def test_good_answers_score_well_on_every_criterion(prompt_id: str) -> None:
    scores = scored(prompt_id, GOOD[prompt_id])
    assert min(scores.criteria.values()) >= 0.8, scores


@pytest.mark.parametrize("broken", [loop, counting_loop, read_as_cp949, read_as_latin_1])
@pytest.mark.parametrize(
    "prompt_id", [each for each in GOOD if PROMPTS[each]["kind"] not in ("code", "translation")]
)
def test_loops_and_mojibake_score_clearly_below_good_text_on_every_criterion(
    prompt_id: str, broken: Callable[[str, str], str]
) -> None:
    good, bad = GOOD[prompt_id], broken(GOOD[prompt_id], PROMPTS[prompt_id]["prompt"])
    for criterion in CRITERIA:
        difference = scored(prompt_id, good).criteria[criterion] - scored(prompt_id, bad).criteria[criterion]
        assert difference > CLEARLY


@pytest.mark.parametrize("prompt_id", GOOD)
def test_repeating_the_prompt_informs_nobody(prompt_id: str) -> None:
    parroted = scored(prompt_id, parrot("", PROMPTS[prompt_id]["prompt"]))
    assert parroted.rules["parroting"].score == 0
    assert parroted.criteria["informativeness"] == parroted.criteria["consistency"] == 0


@pytest.mark.parametrize("prompt_id", PROMPTS)
def test_every_prompts_loop_of_its_own_beginning_fails(prompt_id: str) -> None:
    scores = scored(prompt_id, loop(PROMPTS[prompt_id]["prompt"], ""), ended=False)
    assert max(scores.criteria.values()) < 0.2


@pytest.mark.parametrize(
    "salad",
    [
        "를 수가 하는 이것으로의 은 점 있다고에 하며의 을 자료는 경버체를 직방을 이 떠 우진은 원에 처리 후 매 비하는",
        "사리에서 서로 우리부터 좋은략의 눈 진우스 어요 모둠은 시간 때 입십니다 수 있어요 백사동부터로자으로 지내",
    ],
)
def test_a_salad_of_korean_words_is_less_natural_than_a_sentence(salad: str) -> None:
    good = scored("knowledge-5", GOOD["knowledge-5"])
    assert scored("knowledge-5", salad).rules["fluency"].score < 0.6 < good.rules["fluency"].score
    assert scored("knowledge-5", salad).criteria["naturalness"] < good.criteria["naturalness"] - 0.15


@pytest.mark.parametrize("text", ["", " \n\t", "\ufffd", " \ufffd "])
def test_an_empty_text_scores_nothing_everywhere_and_says_so(text: str) -> None:
    scores = scored("poem-1", text, ended=False)
    assert scores.problem == "nothing was written"
    assert {(each.score, each.reason) for each in scores.rules.values()} == {(0.0, "nothing was written")}
    assert dict(scores.criteria) == dict.fromkeys(CRITERIA, 0.0)


def test_a_model_whose_logits_are_no_numbers_scores_nothing_and_says_why() -> None:
    failed = replace(answer("poem-2", GOOD["poem-2"]), problem="the logits of token 3 are not finite numbers")
    scores = score_generations([failed, answer("poem-2", GOOD["poem-2"])], RULES)
    assert scores[0].problem == failed.problem
    assert max(scores[0].criteria.values()) == 0 < min(scores[1].criteria.values())


def test_a_text_that_ends_by_itself_beats_one_cut_after_a_sentence_and_that_one_cut_in_the_middle() -> None:
    assert found("stop", "knowledge-1", "광합성이다.") == (1.0, "ended by itself")
    assert found("stop", "knowledge-1", "광합성이다. ", ended=False) == (0.75, "cut after a sentence")
    assert found("stop", "knowledge-1", "광합성이다. 잎에", ended=False) == (0.5, "cut in the middle")


def test_a_character_that_the_limit_cut_is_not_the_models_fault() -> None:
    assert found("intact", "knowledge-1", "광합성이\ufffd", ended=False)[0] == 1
    assert found("intact", "knowledge-1", "광합성이\ufffd", ended=True)[0] == 0


def test_typos_that_people_make_cost_little() -> None:
    text = "아 진짜 됬다니까, 내가 어제 그 영화를 혼자 봣는데 끝까지 눈을 뗄 수가 없더라."
    assert found("intact", "conversation-1", text) == (
        pytest.approx(0.68, abs=0.02),
        "6% of the characters are broken",
    )


@pytest.mark.parametrize(
    ("text", "score", "reason"),
    [
        ("비가 온다. 바람이 분다.", 1.0, "2 of 2 sentences are plain"),
        ("비가 옵니다. 바람이 불어요!", 1.0, "2 of 2 sentences are polite"),
        ("비가 옵니다. 바람이 분다.", 0.3 + 0.7 * (0.5 - 0.4) / 0.35, "1 of 2 sentences are polite"),
    ],
)
def test_mixing_polite_and_plain_sentences_is_inconsistent(text: str, score: float, reason: str) -> None:
    assert found("register", "explanation-1", text) == (pytest.approx(score), reason)


def test_one_sentence_says_nothing_about_register() -> None:
    assert "register" not in scored("explanation-1", "비가 온다.").rules


@pytest.mark.parametrize(
    ("prompt_id", "text", "reason"),
    [
        ("poem-1", "눈이 왔다.", "1 lines, wanted at least 2"),
        ("explanation-1", "해와 달 때문이다.", "1 sentences, wanted at least 2"),
        ("translation-3", "네.\n내일.\n몇 시요?", "3 lines, wanted at most 2; 3 sentences, wanted at most 2"),
        ("summary-1", "가. 나. 다.", "3 sentences, wanted at most 2"),
        ("poem-2", GOOD["poem-2"], "as wanted"),
    ],
)
def test_a_kind_of_text_has_its_form(prompt_id: str, text: str, reason: str) -> None:
    assert found("format", prompt_id, text)[1] == reason


def test_a_translation_into_english_must_not_be_hangul_and_is_measured_against_its_reference() -> None:
    english = scored("translation-2", GOOD["translation-2"])
    korean = scored("translation-2", "비가 그치면 강을 따라 걸읍시다.")
    assert (english.rules["hangul"].score, korean.rules["hangul"].score) == (1.0, 0.0)
    assert "fluency" not in english.rules
    rambling = scored("translation-1", GOOD["translation-1"] * 6)
    assert (
        rambling.rules["length"].score
        < 0.5
        < scored("translation-1", GOOD["translation-1"]).rules["length"].score
    )


def test_an_answer_on_another_subject_is_less_consistent() -> None:
    swapped = scored("explanation-2", GOOD["explanation-6"])
    assert (
        swapped.rules["topic"].score
        < scored("explanation-2", GOOD["explanation-2"]).rules["topic"].score
        == 1
    )


@given(text=st.text(max_size=80), prompt_id=st.sampled_from(sorted(PROMPTS)), ended=st.booleans())
def test_any_text_gets_scores_between_0_and_1_with_reasons(text: str, prompt_id: str, ended: bool) -> None:
    scores = scored(prompt_id, text, ended)
    values = [each.score for each in scores.rules.values()] + list(scores.criteria.values())
    assert all(0 <= value <= 1 for value in values)
    assert all(each.reason for each in scores.rules.values())
    assert set(scores.criteria) == set(CRITERIA)


def test_a_criterion_is_the_weighted_geometric_mean_of_the_rules_that_judged() -> None:
    scores = scored("translation-1", "기차는 일곱 시에 출발하니까 조금 일찍", ended=False)
    weights = {rule: w for rule, w in RULES.criteria["consistency"].weights.items() if rule in scores.rules}
    assert set(RULES.criteria["consistency"].weights) - set(weights) == {
        "topic",
        "register",
        "code",
        "sameness",
    }
    expected = math.prod(scores.rules[rule].score ** weight for rule, weight in weights.items())
    assert scores.criteria["consistency"] == pytest.approx(expected ** (1 / sum(weights.values())))


def test_a_kind_without_rules_is_named() -> None:
    with pytest.raises(ValueError, match="prompt p is of kind 'song'"):
        score_generations([Answer("p", "song", "봄", "꽃", True)], RULES)


# --- comparison ---------------------------------------------------------------------------------------------


def made(values: list[float]) -> list[RuleScores]:
    return [
        RuleScores(f"p{place}", "poem", {}, {"naturalness": value, "consistency": 0.5})
        for place, value in enumerate(values)
    ]


def test_a_model_compared_with_itself_is_not_shown_to_differ() -> None:
    scores = score_generations([answer(prompt_id, text) for prompt_id, text in GOOD.items()] * 2, RULES)
    for each in compare_criteria(scores, scores):
        assert (each.difference, each.low, each.high, each.verdict) == (0, 0, 0, "not shown")


def test_better_is_better_worse_is_worse_and_means_are_means() -> None:
    low, high = [0.2 + 0.01 * n for n in range(40)], [0.4 + 0.012 * n for n in range(40)]
    better, unchanged = compare_criteria(made(low), made(high))
    assert (better.criterion, better.verdict, unchanged.verdict) == ("naturalness", "better", "not shown")
    assert (better.base, better.model) == (pytest.approx(sum(low) / 40), pytest.approx(sum(high) / 40))
    assert better.low <= better.difference <= better.high
    assert better.difference == pytest.approx(better.model - better.base)
    worse = compare_criteria(made(high), made(low))[0]
    assert (worse.verdict, worse.difference) == ("worse", pytest.approx(-better.difference))


def test_few_prompts_get_no_verdict() -> None:
    count = FEWEST_PROMPTS - 1
    few = compare_criteria(made([0.1] * count), made([0.9] * count))[0]
    assert (few.verdict, few.p_value) == ("not shown", 1.0)
    assert few.difference == pytest.approx(0.8)


def test_scores_of_other_prompts_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        compare_criteria(made([0.1, 0.2]), made([0.1, 0.2])[::-1])
    with pytest.raises(ValueError, match="at least one"):
        compare_criteria([], [])


# --- the file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("rules", "stopp"), {"zero": 0, "full": 1}, r"rules\.stopp"),
        (("rules", "stop", "ful"), 1, r"rules\.stop\.ful: Extra inputs"),
        (("rules", "stop", "full"), 0, r"rules\.stop: .*zero and full are both 0"),
        (("rules", "stop", "lowest"), 1.5, r"rules\.stop\.lowest: "),
        (("rules", "hangul"), None, r"rules\.hangul"),
        (("kinds", "poem", "characters"), "many", r"kinds\.poem\.characters: "),
        (("kinds", "poem", "format", "rhymes"), 2, r"kinds\.poem\.format\.rhymes: "),
        (("kinds", "poem", "leave_out"), ["rhyme"], r"kinds\.poem\.leave_out"),
        (("criteria", "naturalness", "weights", "beauty"), 1, r"criteria\.naturalness\.weights\.beauty"),
        (
            ("criteria", "naturalness", "weights", "stop"),
            0,
            r"criteria\.naturalness: .*the weight of stop is 0",
        ),
        (
            ("criteria", "naturalness", "weights"),
            {"topic": 1},
            r"criteria\.naturalness\.weights has no rule .* kind",
        ),
    ],
)
def test_a_mistake_in_the_rules_is_named_by_file_and_key(
    tmp_path: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    content = yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))
    section = content
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"rules\.yaml: .*{message}"):
        load_scoring_rules(path)


def test_a_missing_rule_is_named() -> None:
    values = RULES.model_dump()
    del values["rules"]["stop"]
    with pytest.raises(ValueError, match=r"rules\.stop is missing"):
        ScoringRules(**values)


@pytest.mark.parametrize("text", ["- a", "a: [", ""])
def test_a_file_without_rules_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"rules\.yaml"):
        load_scoring_rules(path)


def test_a_ramp_rises_or_falls_between_its_ends() -> None:
    rising, falling = Ramp(zero=0.2, full=0.6), Ramp(zero=0.8, full=0.4, lowest=0.5)
    assert [rising.score(value) for value in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert [falling.score(value) for value in (0, 0.4, 0.6, 0.8, 1)] == pytest.approx([1, 1, 0.75, 0.5, 0.5])

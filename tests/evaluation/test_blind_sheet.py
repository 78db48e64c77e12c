"""The blind sheet hides who wrote what, and what comes back is un-blinded without a mistake."""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from yunmin_assets.evaluation.blind_sheet import (
    BlindKey,
    HumanVerdict,
    Pair,
    read_key,
    read_ratings,
    sign_test,
    write_blind_sheet,
)
from yunmin_assets.evaluation.scoring_config import ScoringRules, load_scoring_rules

FILE_RULES = load_scoring_rules(Path(__file__).parents[2] / "configs" / "scoring_rules.yaml")
CRITERIA = ("informativeness", "naturalness")
RULES: ScoringRules = FILE_RULES.model_copy(
    update={"criteria": {name: FILE_RULES.criteria[name] for name in CRITERIA}}
)
HOSTILE = "</p></script><script>document.title='당했다'</script><img src=x onerror=alert(1)> & \"따옴표\" '"


def pairs(count: int) -> list[Pair]:
    return [
        Pair(f"poem-{n}", "poem", f"{n}번째 시", f"바탕이 쓴 {n}", f"합친 것이 쓴 {n}") for n in range(count)
    ]


class Page(HTMLParser):
    """Texts and choices of a sheet as a browser would find them."""

    def __init__(self, html: str):
        super().__init__()
        self.texts: list[str] = []
        self.choices: list[dict[str, str | None]] = []
        self.elements: list[str] = []
        self._is_text = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        attributes = dict(attrs)
        self._is_text = (attributes.get("class") or "").startswith("text")
        if self._is_text:
            self.texts.append("")
        if tag == "input":
            self.choices.append(attributes)

    def handle_endtag(self, tag: str) -> None:
        self._is_text = self._is_text and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._is_text:
            self.texts[-1] += data


def written(folder: Path, some: Sequence[Pair], seed: int = 0) -> tuple[str, BlindKey]:
    sheet, key = write_blind_sheet(folder, some, RULES, seed)
    return sheet.read_text(encoding="utf-8"), read_key(key)


Rate = Callable[[str, str], Any]


def returned(folder: Path, key: BlindKey, rate: Rate) -> Path:
    """A ratings file in which `rate(prompt, criterion)` chose."""
    ratings = {prompt: {name: rate(prompt, name) for name in key.criteria} for prompt in key.merged_is}
    return saved(folder, {"sheet": key.sheet, "ratings": ratings})


def saved(folder: Path, content: Mapping[str, Any]) -> Path:
    path = folder / "ratings.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def counts(verdict: HumanVerdict) -> list[tuple[int, int, int, int]]:
    return [(each.wins, each.ties, each.losses, each.unrated) for each in verdict.criteria]


def test_every_text_stands_on_the_side_that_the_key_says(tmp_path: Path) -> None:
    some = pairs(9)
    html, key = written(tmp_path, some)
    expected = [
        text
        for pair in some
        for text in (
            pair.prompt,
            *((pair.merged, pair.base) if key.merged_is[pair.prompt_id] == "A" else (pair.base, pair.merged)),
        )
    ]
    assert Page(html).texts == expected


def test_the_page_says_nothing_about_who_is_who(tmp_path: Path) -> None:
    """With both models' texts exchanged and the sides with them, the same page comes out but for its id."""
    some = [Pair("p", "poem", "눈", "하나", "둘"), Pair("q", "poem", "비", "셋", "넷")]
    exchanged = [Pair(each.prompt_id, each.kind, each.prompt, each.merged, each.base) for each in some]
    first, key = written(tmp_path, some)
    opposite = {"A": "B", "B": "A"}
    for seed in range(50):
        second, other = written(tmp_path, exchanged, seed)
        if other.merged_is == {prompt: opposite[side] for prompt, side in key.merged_is.items()}:
            break
    assert other.sheet != key.sheet
    assert first.replace(key.sheet, "") == second.replace(other.sheet, "")


def test_each_model_is_a_on_half_of_the_prompts_as_the_seed_draws_them(tmp_path: Path) -> None:
    draws = [written(tmp_path, pairs(40), seed)[1] for seed in range(4)]
    assert [list(key.merged_is.values()).count("A") for key in draws] == [20] * 4
    assert len({tuple(key.merged_is.values()) for key in draws}) == 4
    assert len({key.sheet for key in draws}) == 4
    assert written(tmp_path, pairs(40), 2)[1] == draws[2]
    odd = {list(written(tmp_path, pairs(5), seed)[1].merged_is.values()).count("A") for seed in range(10)}
    assert odd == {2, 3}


def test_equal_texts_are_not_shown_and_count_as_ties(tmp_path: Path) -> None:
    same = [Pair("same", "poem", "봄", "꽃이 핀다", "꽃이 핀다"), Pair("empty", "poem", "봄", "", "")]
    html, key = written(tmp_path, [*same, *pairs(2)])
    assert key.equal == ("same", "empty")
    assert "꽃이 핀다" not in html
    verdict = read_ratings(returned(tmp_path, key, lambda prompt, _: key.merged_is[prompt]), [key])
    assert counts(verdict) == [(2, 2, 0, 0)] * 2


def test_a_pair_with_a_text_that_broke_off_is_left_out_by_name_and_no_tie(tmp_path: Path) -> None:
    problem = "the logits of token 3 are not finite numbers"
    broken = [
        Pair("one", "poem", "봄", "꽃이 핀다", "", problem),
        Pair("both", "poem", "봄", "", "", problem),
    ]
    html, key = written(tmp_path, [*broken, *pairs(2)])
    assert (key.equal, list(key.merged_is)) == ((), ["poem-0", "poem-1"])
    assert key.left_out == (f"one: {problem}", f"both: {problem}")
    assert "꽃이 핀다" not in html and f"one: {problem}; both: {problem}" in html
    verdict = read_ratings(returned(tmp_path, key, lambda prompt, _: key.merged_is[prompt]), [key])
    assert counts(verdict) == [(2, 0, 0, 0)] * 2
    assert verdict.errors == (f"not on the sheet: one: {problem}", f"not on the sheet: both: {problem}")


def test_a_key_of_an_older_sheet_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text('{"sheet": "x", "criteria": ["a"], "merged_is": {"p": "A"}, "equal": []}')
    assert read_key(path) == BlindKey("x", ("a",), {"p": "A"}, ())


def test_a_model_compared_with_itself_leaves_an_empty_sheet_and_shows_nothing(tmp_path: Path) -> None:
    html, key = written(tmp_path, [Pair(f"p{n}", "poem", "봄", "꽃", "꽃") for n in range(40)])
    assert "비교할 글이 없습니다" in html
    verdict = read_ratings(saved(tmp_path, {"sheet": key.sheet, "ratings": {}}), [key])
    assert counts(verdict) == [(0, 40, 0, 0)] * 2
    assert {each.verdict for each in verdict.criteria} == {"not shown"}


def test_ratings_are_unblinded(tmp_path: Path) -> None:
    _, key = written(tmp_path, pairs(40), seed=3)
    prompts = list(key.merged_is)
    other = {"A": "B", "B": "A"}

    def rate(prompt: str, criterion: str) -> str:
        place, merged = prompts.index(prompt), key.merged_is[prompt]
        if criterion == "naturalness":
            return "tie"
        return merged if place < 28 else other[merged] if place < 34 else "tie"

    verdict = read_ratings(returned(tmp_path, key, rate), [written(tmp_path, pairs(3))[1], key])
    first, second = verdict.criteria
    assert (first.criterion, first.wins, first.ties, first.losses) == ("informativeness", 28, 6, 6)
    assert first.p_value == pytest.approx(2 * binomtest(28, 34).pvalue)  # Holm over two criteria
    assert (first.verdict, second.verdict) == ("better", "not shown")
    assert (second.p_value, verdict.errors) == (1.0, ())


def test_always_choosing_one_side_shows_nothing_and_choosing_the_base_shows_worse(tmp_path: Path) -> None:
    _, key = written(tmp_path, pairs(40))
    other = {"A": "B", "B": "A"}
    always_a = read_ratings(returned(tmp_path, key, lambda *_: "A"), [key])
    assert counts(always_a) == [(20, 0, 20, 0)] * 2
    assert {each.verdict for each in always_a.criteria} == {"not shown"}
    base = read_ratings(returned(tmp_path, key, lambda prompt, _: other[key.merged_is[prompt]]), [key])
    assert {each.verdict for each in base.criteria} == {"worse"}


def test_what_cannot_be_counted_is_named_and_the_rest_counts(tmp_path: Path) -> None:
    _, key = written(tmp_path, pairs(4))
    ratings = {
        "poem-0": {"informativeness": key.merged_is["poem-0"]},
        "poem-1": {"informativeness": "C", "naturalness": ["A"], "beauty": "A"},
        "poem-2": "A",
        "poem-9": {"naturalness": "A"},
    }
    verdict = read_ratings(saved(tmp_path, {"sheet": key.sheet, "ratings": ratings}), [key])
    assert counts(verdict) == [(1, 0, 0, 3), (0, 0, 0, 4)]
    assert verdict.errors == (
        "poem-1, informativeness: 'C' is not A, B or tie",
        "poem-1, naturalness: ['A'] is not A, B or tie",
        "poem-1, beauty: the sheet has no such criterion",
        "poem-2: 'A' is not a choice per criterion",
        "poem-9: the sheet has no such prompt",
    )


@pytest.mark.parametrize("text", ["{", "[1]", '{"sheet": 5, "ratings": {}}', '{"sheet": "x"}', "\ufffd"])
def test_a_file_that_is_no_ratings_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ratings.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"ratings\.json"):
        read_ratings(path, [written(tmp_path, pairs(2))[1]])


def test_ratings_of_another_sheet_are_refused(tmp_path: Path) -> None:
    _, old = written(tmp_path, pairs(2))
    _, new = written(tmp_path, pairs(3))
    with pytest.raises(ValueError, match=f"saved by sheet {old.sheet}, but keys were given for: {new.sheet}"):
        read_ratings(returned(tmp_path, old, lambda *_: "A"), [new])


def test_what_models_and_prompts_say_cannot_act_on_the_page(tmp_path: Path) -> None:
    html, key = written(
        tmp_path, [Pair(f'"><b>{n}', "poem", HOSTILE, HOSTILE, f"{HOSTILE}!") for n in range(2)]
    )
    page = Page(html)
    assert page.elements.count("script") == 1
    assert {"img", "b"}.isdisjoint(page.elements)
    assert set(page.texts) == {HOSTILE, f"{HOSTILE}!"}
    assert {choice["data-prompt"] for choice in page.choices} == set(key.merged_is)


def test_the_page_asks_for_nothing_and_offers_every_choice_once(tmp_path: Path) -> None:
    html, key = written(tmp_path, pairs(3))
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|@import|url\(", html)
    offered = [(each["data-prompt"], each["data-criterion"], each["value"]) for each in Page(html).choices]
    assert offered == list(itertools.product(key.merged_is, CRITERIA, ("A", "tie", "B")))


def test_a_prompt_that_occurs_twice_or_is_of_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompt poem-0 occurs twice"):
        write_blind_sheet(tmp_path, [*pairs(2), *pairs(1)], RULES)
    with pytest.raises(ValueError, match="prompt p is of kind 'song'"):
        write_blind_sheet(tmp_path, [Pair("p", "song", "봄", "꽃", "새")], RULES)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_the_exact_binomial_test(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected)

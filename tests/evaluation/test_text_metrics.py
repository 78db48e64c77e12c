"""Scores of written texts against published figures, figures worked out by hand, and rouge-score."""

import math
import subprocess
import sys
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from yunmin_assets.evaluation.rouge import longest_common_subsequence, rouge_l, rouge_n
from yunmin_assets.evaluation.text_metrics import LeftOut, characters, morphemes, score_texts

SCHOOL, HOME = "나는 학교에 갔다.", "나는 집에 갔다."

README_WRITTEN = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
README_REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]
"""The example of sacreBLEU's README and of its own tests, by text."""

SEGMENTED = {
    "서울 타워 근처에 살고 있습니다.": "서울 타워 근처 에 살 고 있 습니다 .",
    "영등포구에 있는 맛집 좀 알려주세요.": "영등포구 에 있 는 맛집 좀 알려 주 세요 .",
    "10$ 할인코드를 적용할까요?": "10 $ 할인 코드 를 적용 할까요 ?",
}
"""Sentences as mecab-ko cuts them, from spaCy's tests of its Korean tokenizer."""


def as_syllables() -> Callable[[str], str]:
    """A function that writes every word, by spaces, as one syllable."""
    syllables: dict[str, str] = {}
    return lambda text: "".join(
        syllables.setdefault(word, chr(0xAC00 + len(syllables))) for word in text.split()
    )


class TokensOf:
    """A tokenizer as rouge-score wants it."""

    def __init__(self, tokenize: Callable[[str], list[str]]) -> None:
        self.tokenize = tokenize


def test_chrf_is_the_published_figure_of_sacrebleus_readme() -> None:
    assert round(score_texts(README_WRITTEN, README_REFERENCES).chrf, 2) == 59.73


def test_bleu_of_words_written_as_syllables_is_sacrebleus_published_figure_without_a_tokenizer() -> None:
    write = as_syllables()
    scores = score_texts(
        [write(text) for text in README_WRITTEN], [[*map(write, each)] for each in README_REFERENCES]
    )
    assert scores.bleu_character == pytest.approx(49.1919566, abs=1e-6)


def test_bleu_of_the_readme_on_morphemes_is_the_published_one_of_tokenizer_intl() -> None:
    """mecab-ko cuts these English sentences as `intl` does: "wasn ' t"."""
    scores = score_texts(README_WRITTEN, README_REFERENCES)
    assert scores.bleu_morpheme == pytest.approx(43.91623493, abs=1e-6)


def test_a_text_shorter_than_four_tokens_has_the_published_bleu_of_the_effective_order() -> None:
    assert score_texts(["가"], [["나가"]]).bleu_character == pytest.approx(36.78794411714425)


def test_bleu_on_morphemes_cuts_as_mecab_ko_is_published_to_cut() -> None:
    written = list(SEGMENTED)
    references = [written[1], written[2], written[0] + " 10$ 할인"]
    ours = score_texts(written, [[text] for text in references])
    cut = list(SEGMENTED.values())
    expected = BLEU(tokenize="none").corpus_score(cut, [[cut[1], cut[2], cut[0] + " 10 $ 할인"]])
    assert 0 < ours.bleu_morpheme == pytest.approx(expected.score)


def test_one_word_that_differs_by_hand() -> None:
    """나|는|학교|에|가|었|다|. against 나|는|집|에|가|었|다|., and 8 characters against 7."""
    scores = score_texts([HOME], [[SCHOOL]])
    shared = [6 / 7, 4 / 6, 2 / 5, 1 / 4]
    assert scores.rouge_1_morpheme == pytest.approx(100 * 7 / 8)
    assert scores.rouge_2_morpheme == pytest.approx(100 * 5 / 7)
    assert scores.rouge_l_morpheme == pytest.approx(100 * 7 / 8)
    assert scores.rouge_l_character == pytest.approx(100 * 2 * 6 / (7 + 8))
    assert scores.bleu_character == pytest.approx(100 * math.exp(1 - 8 / 7) * math.prod(shared) ** 0.25)
    assert scores.bleu_morpheme == pytest.approx(
        100 * math.prod(shared) ** 0.25
    )  # mecab leaves 갔 whole: 7, 7
    precision, recall = sum(shared) / 6, (6 / 8 + 4 / 7 + 2 / 6 + 1 / 5) / 6
    assert scores.chrf == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))


def test_order_counts_for_rouge_l_and_repeats_count_once_each() -> None:
    """가나다 and 다가나 share three tokens, but only two of them in order."""
    assert rouge_n(list("가나다"), list("다가나"), 1) == 1
    assert rouge_l(list("가나다"), list("다가나")) == pytest.approx(2 / 3)
    assert rouge_n(list("가가가가"), list("가나"), 1) == pytest.approx(2 * 1 / (4 + 2))
    assert rouge_n(list("가나다"), list("나다라마"), 2) == pytest.approx(2 * 1 / (2 + 3))


WORDS = st.lists(st.sampled_from(["ga", "na", "da", "ra", "ma"]), min_size=2, max_size=14)


@given(WORDS, WORDS)
@settings(max_examples=300, deadline=None)
def test_rouge_on_tokens_is_that_of_rouge_score(written: list[str], reference: list[str]) -> None:
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(" ".join(reference), " ".join(written))
    assert rouge_n(written, reference, 1) == pytest.approx(theirs["rouge1"].fmeasure)
    assert rouge_n(written, reference, 2) == pytest.approx(theirs["rouge2"].fmeasure)
    assert rouge_l(written, reference) == pytest.approx(theirs["rougeL"].fmeasure)


def test_rouge_of_korean_is_that_of_rouge_score_on_the_same_tokens() -> None:
    written = [SCHOOL, "고양이가 물을 마신다.", "빵이 세르비아 요리의 기본이다.", "ㅋㅋㅋ 됐어요 😀"]
    references = [
        [HOME, "나는 어제 학교에 안 갔다."],
        ["강아지가 물을 마셨다."],
        ["빵은 세르비아 요리에서 가장 기본적인 음식이다.", "요리"],
        ["네, 됐어요 ㅋㅋㅋ"],
    ]
    ours = score_texts(written, references)
    by_morpheme = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=TokensOf(morphemes))
    by_character = RougeScorer(["rougeL"], tokenizer=TokensOf(characters))

    def mean(scorer: RougeScorer, name: str) -> float:
        pairs = zip(references, written, strict=True)
        return 100 * sum(scorer.score_multi(each, text)[name].fmeasure for each, text in pairs) / len(written)

    assert ours.rouge_1_morpheme == pytest.approx(mean(by_morpheme, "rouge1"))
    assert ours.rouge_2_morpheme == pytest.approx(mean(by_morpheme, "rouge2"))
    assert ours.rouge_l_morpheme == pytest.approx(mean(by_morpheme, "rougeL"))
    assert ours.rouge_l_character == pytest.approx(mean(by_character, "rougeL"))
    assert RougeScorer(["rouge1"]).score(SCHOOL, SCHOOL)["rouge1"].fmeasure == 0, (
        "why rouge-score is not used"
    )


@given(st.text("가나다", max_size=80), st.text("가나다", max_size=80))
@settings(max_examples=100, deadline=None)
def test_the_longest_common_subsequence_is_that_of_the_textbook(first: str, second: str) -> None:
    row = [0] * (len(second) + 1)
    for token in first:
        before = row[:]
        for at, other in enumerate(second):
            row[at + 1] = before[at] + 1 if token == other else max(before[at + 1], row[at])
    assert longest_common_subsequence(first, second) == row[-1]


FIGURES = (
    "bleu_morpheme", "bleu_character", "chrf",
    "rouge_1_morpheme", "rouge_2_morpheme", "rouge_l_morpheme", "rouge_l_character",
)  # fmt: skip


@given(
    st.text(st.sampled_from("가나 힣ㅋ漢a1.!\n\0😀\u1100\u1161\u200b"), min_size=1).filter(
        lambda t: t.strip("\0 \n")
    )
)
@settings(max_examples=60, deadline=None)
def test_a_text_compared_with_itself_scores_100(text: str) -> None:
    scores = score_texts([text], [[text]])
    assert {name: getattr(scores, name) for name in FIGURES} == pytest.approx(dict.fromkeys(FIGURES, 100.0))
    assert all(0 <= getattr(scores, name) <= 100 for name in FIGURES)


def test_a_text_in_pieces_of_syllables_is_the_same_text() -> None:
    apart = unicodedata.normalize("NFD", SCHOOL)
    assert apart != SCHOOL
    assert score_texts([apart], [[SCHOOL]]).chrf == 100
    assert score_texts([SCHOOL], [[apart]]).rouge_l_character == 100


def test_what_stands_behind_a_nul_counts() -> None:
    assert score_texts(["나는\0학교에 갔다."], [[SCHOOL]]).bleu_morpheme == 100


def test_an_empty_text_scores_0_and_is_counted() -> None:
    alone = score_texts([" \n"], [[SCHOOL]])
    assert [getattr(alone, name) for name in FIGURES] == [0] * len(FIGURES)
    assert (alone.items, alone.empty, alone.left_out) == (1, (0,), ())
    halved = score_texts([SCHOOL, ""], [[SCHOOL], [HOME]])
    assert halved.rouge_1_morpheme == halved.rouge_l_character == 50
    assert halved.bleu_morpheme == pytest.approx(100 * math.exp(1 - 14 / 7)), "its words are missing"
    assert (halved.items, halved.empty) == (2, (1,))


def test_texts_without_a_usable_reference_are_left_out_with_the_reason() -> None:
    scores = score_texts([SCHOOL, SCHOOL, HOME], [[], [SCHOOL, " "], [HOME]])
    assert scores.left_out == (LeftOut(0, "no reference"), LeftOut(1, "a reference is empty"))
    assert (scores.items, scores.chrf) == (1, 100)


def test_the_best_of_several_references_counts_and_their_number_may_differ() -> None:
    scores = score_texts([SCHOOL, HOME], [["전혀 다른 문장", SCHOOL], [HOME]])
    assert scores.rouge_2_morpheme == scores.chrf == 100
    assert "nrefs:var" in scores.signatures["chrf"]


def test_signatures_say_how_each_figure_was_computed() -> None:
    signatures = score_texts([SCHOOL], [[HOME]]).signatures
    assert signatures["bleu_morpheme"].startswith(
        "nrefs:1|case:mixed|eff:yes|tok:ko-mecab-0.996/ko-0.9.2-KO|smooth:exp"
    )
    assert signatures["bleu_character"].startswith("nrefs:1|case:mixed|eff:yes|tok:char|smooth:exp")
    assert signatures["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no")
    assert "tok:kiwi-" in signatures["rouge_morpheme"]
    assert all(
        any(name.startswith(field) for name in signatures) for field in ("bleu_m", "bleu_c", "chrf", "rouge")
    )


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 texts but references for 1"):
        score_texts([SCHOOL, HOME], [[SCHOOL]])


def test_nothing_to_score_is_refused_with_the_reasons() -> None:
    with pytest.raises(
        ValueError, match=r"none of 2 texts has a reference.*text 0: no reference; text 1: a reference"
    ):
        score_texts([SCHOOL, HOME], [[], [""]])


def test_references_that_are_one_string_are_refused_and_not_taken_for_characters() -> None:
    with pytest.raises(TypeError, match="references of text 1 are one string"):
        score_texts([SCHOOL, HOME], [[SCHOOL], HOME])


SCORE_TWICE = """
import sys
import yunmin_assets.evaluation
print("kiwipiepy" in sys.modules)
from yunmin_assets.evaluation import morphemes, text_metrics
for _ in range(2):
    print(morphemes.kiwi.cache_info().misses, text_metrics._bleu.cache_info().misses)
    text_metrics.score_texts(["가"], [["가"]])
print(morphemes.kiwi.cache_info().misses, text_metrics._bleu.cache_info().misses)
"""


def test_the_analysers_are_loaded_when_first_needed_and_once() -> None:
    found = subprocess.run([sys.executable, "-c", SCORE_TWICE], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "0", "0", "1", "2", "1", "2"]

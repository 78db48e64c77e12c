"""What is cut out of two texts stands in them, and is marked where they differ."""

import random
import time
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yunmin_assets.dedup.differences import (
    COMPARED_CHARACTERS,
    SHOWN_CHARACTERS,
    SHOWN_WINDOWS,
    Kind,
    Piece,
    compare,
)

SENTENCES = [f"{number}번째 문장은 다른 어느 문장과도 같지 않습니다." for number in range(2000)]


def marked(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if piece.kind is Kind.DIFFERS]


def runs(pieces: list[Piece]) -> list[str]:
    """What stands between the places where text is left out, without the marks."""
    by_absence = groupby(pieces, key=lambda piece: piece.kind is Kind.LEFT_OUT)
    return ["".join(piece.text for piece in run) for is_left_out, run in by_absence if not is_left_out]


def test_a_replaced_word_is_marked_in_both_texts() -> None:
    (window,) = compare("이 법은 서울 시민을 위한다", "이 법은 모든 시민을 위한다").windows
    assert window.first == [
        Piece(Kind.SAME, "이 법은 "),
        Piece(Kind.DIFFERS, "서울"),
        Piece(Kind.SAME, " 시민을 위한다"),
    ]
    assert window.second[1] == Piece(Kind.DIFFERS, "모든")


@pytest.mark.parametrize(
    ("first", "second", "first_marks", "second_marks"),
    [
        ("부산시는 크다", "부산시가 크다", ["는"], ["가"]),
        ("회의를 마친다.", "회의를 마친다", ["."], []),
        ("서울시는 크다", "대구시가 크다", ["서울시는"], ["대구시가"]),
        ("새로운 법률 제정", "새로운법률 제정", ["새로운 법률"], ["새로운법률"]),
        ("앞 가운데 뒤", "앞 뒤", ["가운데"], []),
        ("하나 둘 셋 넷", "하나 two three 넷", ["둘 셋"], ["two three"]),
    ],
)
def test_marks_cover_what_differs_and_nothing_else(
    first: str, second: str, first_marks: list[str], second_marks: list[str]
) -> None:
    (window,) = compare(first, second).windows
    assert (marked(window.first), marked(window.second)) == (first_marks, second_marks)


def test_equal_words_leave_nothing_to_show_however_they_are_spaced() -> None:
    comparison = compare("같은  글\n여기", "같은 글 여기")
    assert (comparison.windows, comparison.places, comparison.is_complete) == ([], 0, True)


def test_of_a_long_text_only_what_surrounds_a_difference_is_shown() -> None:
    changed = SENTENCES[:200]
    changed[100] = changed[100].replace("문장은", "글은")
    (window,) = compare(" ".join(SENTENCES[:200]), " ".join(changed)).windows
    assert [piece.kind.value for piece in window.first] == ["left out", "same", "differs", "same", "left out"]
    assert window.first[1].text.endswith("100번째 ")
    assert (marked(window.first), marked(window.second)) == (["문장은"], ["글은"])
    assert len("".join(runs(window.first))) < 100


def test_more_differences_than_are_shown_are_counted() -> None:
    changed = [
        text.replace("문장은", "글은") if number % 10 == 5 else text for number, text in enumerate(SENTENCES)
    ]
    comparison = compare(" ".join(SENTENCES[:100]), " ".join(changed[:100]))
    assert (len(comparison.windows), comparison.places, comparison.is_complete) == (SHOWN_WINDOWS, 10, True)


def test_a_long_insertion_shows_both_its_ends_and_what_follows_it() -> None:
    insertion = " ".join(SENTENCES[:50])
    (window,) = compare(f"앞 글 {insertion} 뒤 글", "앞 글 뒤 글").windows
    head, tail = marked(window.first)
    assert insertion.startswith(head) and insertion.endswith(tail)
    assert window.first[-1] == Piece(Kind.SAME, " 뒤 글")
    assert runs(window.second) == ["앞 글 뒤 글"]


def test_very_long_texts_are_compared_in_part_and_the_cut_is_not_taken_for_a_difference() -> None:
    text = " ".join(SENTENCES)
    insertion = "들어온 낱말 " * 100
    comparison = compare(text, text[:5000] + insertion + text[5000:] + " 끝")
    assert len(text) > 2 * COMPARED_CHARACTERS
    assert (comparison.places, comparison.is_complete) == (1, False)


def test_fifty_megabytes_take_less_than_a_second() -> None:
    text = " ".join(SENTENCES) * 370
    changed = text[: len(text) // 2] + "바뀜" + text[len(text) // 2 :]
    assert len(text.encode()) > 50e6
    started = time.process_time()
    comparison = compare(text, changed)
    assert time.process_time() - started < 1
    assert (comparison.places, comparison.is_complete) == (1, True)


def test_words_that_repeat_endlessly_do_not_stall_the_comparison() -> None:
    generator = random.Random(0)
    first, second = (" ".join(generator.choices("가나다라마바사", k=20_000)) for _ in range(2))
    started = time.process_time()
    compare(first, second)
    assert time.process_time() - started < 5


WORDS = st.sampled_from(
    ["가", "나", "다라", "마바사", "아", "a", "bc", "-", "가나다라마바사아자차카타파하" * 9]
)


@st.composite
def text_and_edition(draw: st.DrawFn) -> tuple[str, str]:
    """A text, and one made from it by dropping, replacing and inserting words."""
    words = draw(st.lists(WORDS | st.text(max_size=8), max_size=120))
    edited = list(words)
    for place in draw(st.lists(st.integers(0, max(len(words) - 1, 0)), max_size=12)):
        edited[place : place + draw(st.integers(0, 2))] = draw(st.lists(WORDS, max_size=3))
    return " ".join(words), " ".join(edited)


@given(text_and_edition())
def test_what_is_shown_stands_in_the_text_in_this_order_and_is_bounded(texts: tuple[str, str]) -> None:
    first, second = texts
    comparison = compare(first, second)
    assert bool(comparison.windows) == (first.split() != second.split())
    for text, side in ((first, "first"), (second, "second")):
        place, shown = 0, 0
        for window in comparison.windows:
            for run in runs(getattr(window, side)):
                place = text.index(run, place)
                shown += len(run)
        assert shown <= SHOWN_CHARACTERS
        assert all(
            piece.text or piece.kind is Kind.LEFT_OUT
            for window in comparison.windows
            for piece in getattr(window, side)
        )


@given(text_and_edition())
def test_what_is_not_marked_is_the_same_on_both_sides(texts: tuple[str, str]) -> None:
    first, second = texts
    comparison = compare(first, second)
    for window in comparison.windows:
        pieces = [*window.first, *window.second]
        if any(piece.kind is Kind.LEFT_OUT for piece in pieces):
            continue
        same = [
            "".join("".join(piece.text.split()) for piece in side if piece.kind is Kind.SAME)
            for side in (window.first, window.second)
        ]
        assert same[0] == same[1]


@given(text_and_edition())
def test_neighbouring_pieces_are_of_different_kinds(texts: tuple[str, str]) -> None:
    for window in compare(*texts).windows:
        for side in (window.first, window.second):
            kinds = [piece.kind for piece in side]
            assert all(one is not other for one, other in pairwise(kinds))

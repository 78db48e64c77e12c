"""Python that parses and lines that look like SQL are code; prose, bare words and broken Python are not."""

import time

import pytest

from tests.evaluation.good_answers import found, scored


@pytest.mark.parametrize(
    ("prompt_id", "text"),
    [
        ("code-1", "\n    return sum('가' <= each <= '힣' for each in text)"),
        ("code-1", " return len(text)"),
        (
            "code-1",
            '\n    """한글을 센다."""\n    count = 0\n\n    # 모두\n    return count\n\nprint(count_hangul("봄"))',
        ),
        ("code-2", "\n```python\nmean = sum(numbers) / len(numbers)\nprint(mean)\n```"),
        ("code-4", " 이름\nFROM 학생\nORDER BY 점수 DESC -- 높은 것부터\nLIMIT 3;"),
        ("code-5", "\n    for line in file:\n        if line.strip():\n            print(line)"),
    ],
)
def test_code_that_parses_is_code(prompt_id: str, text: str) -> None:
    assert found("code", prompt_id, text) == (1.0, "100% of the characters stand on lines of code")


@pytest.mark.parametrize(
    ("prompt_id", "text"),
    [
        ("code-1", "한글을 세려면 반복문을 쓰면 됩니다."),
        ("code-1", "이것은 코드가 아니라 그냥 한국어 문장입니다. 정말로 그렇습니다.\nprint(a)"),
        ("code-1", "return return return asd qwe zxc"),
        ("code-1", "\n    한글\n    음절"),
        ("code-1", "\nreturn 1"),
        ("code-2", "설명: 평균\n더한다\n\n# 끝"),
        ("code-2", "평균(mean)은 중요하다(2013)."),
        ("code-4", "을 배우는 시간\n값 = 3"),
        ("code-4", "그는 print를 좋아한다"),
    ],
)
def test_what_does_not_parse_or_does_nothing_is_no_code(prompt_id: str, text: str) -> None:
    assert found("code", prompt_id, text) == (0.0, "0% of the characters stand on lines of code")
    assert set(scored(prompt_id, text).criteria.values()) == {0.0}


def test_prose_beside_the_code_and_a_bad_line_in_it_cost_only_themselves() -> None:
    explained = "mean = sum(numbers) / len(numbers)\n수를 모두 더해 개수로 나눕니다."
    assert found("code", "code-2", explained)[1] == "68% of the characters stand on lines of code"
    mistyped = "\n    count = 0\n    for each in text\n    return count"
    assert found("code", "code-1", mistyped)[1] == "58% of the characters stand on lines of code"


@pytest.mark.parametrize(
    "text",
    [
        "\n    return sum(1 for each in",
        "\n    count = 0\n    for each in text:\n        if each >= ",
        '\n    """한글 음절을 센다.\n\n    text: 문자열\n    돌려주는',
        "\n    return sum(\n        1\n        for each in text\n        if",
    ],
)
def test_code_that_the_limit_cut_is_code(text: str) -> None:
    assert found("code", "code-1", text, ended=False)[0] == 1


@pytest.mark.parametrize("line", ["가 나", "f(", '"""', "((((", "{[(" * 60, "\0", "if x:", "x = 1\n  y"])
def test_hundreds_of_lines_are_judged_in_a_moment(line: str) -> None:
    before = time.process_time()
    found("code", "code-2", f"{line}\n" * 500)
    assert time.process_time() - before < 5


def test_code_may_name_any_syllable_in_quotes_but_not_hold_broken_characters() -> None:
    code = "\n    return sum('가' <= each <= '힣' for each in text)"
    assert found("intact", "code-1", code)[0] == 1
    assert found("intact", "code-1", code.replace("'가'", "'\ufffd\ufffd'"))[0] < 1
    assert found("intact", "poem-1", "'힣' 힣")[0] < 1

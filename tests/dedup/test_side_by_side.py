"""Ten pairs a person can judge, whatever the documents hold: Markdown is read by an independent parser."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from yunmin_assets.dedup.removal import DOMAIN_DECISION_SCHEMA, NEAR_DUPLICATE
from yunmin_assets.dedup.side_by_side import choose_pairs, side_by_side
from yunmin_assets.documents import EXACT_DUPLICATE
from yunmin_assets.plots import literal

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = [
    "| a | b |\n| --- | --- |",
    "# title\n- list\n1. list\n> quote\n\n    code\n***\n",
    "**bold** _italic_ ~~gone~~ `code` ``more`` ```\nfence",
    "[link](http://example.com) ![image](http://example.com/a.png) <http://example.com>",
    "http://example.com www.example.com someone@example.com",
    "<script>alert(1)</script><b>bold</b><!-- comment --> &amp; &#42; &lt;",
    "\\| \\\\| \\` `\\` |\\",
    "a\x00b\u2028c\u200bd\u202ee\x85f\r\ng",
    "`|`|``||",
]


def decisions(jaccards: list[float], reasons: list[str | None] | None = None) -> pa.Table:
    """One domain's decisions, in no order of similarity."""
    reasons = reasons or [NEAR_DUPLICATE] * len(jaccards)
    rows = [
        {
            "id": f"{number:05d}",
            "kept": reason is None,
            "cluster_id": "law/survivor",
            "survivor_domain": "law",
            "survivor_id": "survivor",
            "jaccard": jaccard,
            "reason": reason,
        }
        for number, (jaccard, reason) in enumerate(zip(jaccards, reasons, strict=True))
    ]
    return pa.Table.from_pylist(rows, DOMAIN_DECISION_SCHEMA)


def pair(text: str, survivor_text: str, *, identifier: str = "1", jaccard: float = 0.9) -> pa.Table:
    row = {
        "id": identifier,
        "survivor_domain": "law",
        "survivor_id": "2",
        "jaccard": jaccard,
        "text": text,
        "survivor_text": survivor_text,
    }
    return pa.Table.from_pylist([row])


def cells(markdown: str) -> list[list[list[Token]]]:
    """The tokens in each cell of each row, as the parser reads the table."""
    rows: list[list[list[Token]]] = []
    for token, following in zip(tokens := PARSER.parse(markdown), [*tokens[1:], None], strict=True):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("th_open", "td_open") and following is not None:
            rows[-1].append(following.children or [])
    return rows


def visible(tokens: list[Token]) -> str:
    """What a reader sees, without the zero-width spaces where a line may break."""
    return "".join(token.content for token in tokens if token.type in ("text", "code_inline")).replace(
        "\u200b", ""
    )


def test_pairs_are_spread_over_the_range_of_jaccard() -> None:
    jaccards = np.random.default_rng(0).uniform(0.8, 1.0, 5000)
    chosen = choose_pairs(decisions(list(jaccards)))["jaccard"].to_numpy()
    assert chosen[0] == jaccards.min() and chosen[-1] == jaccards.max()
    assert np.diff(chosen) == pytest.approx(np.full(9, 0.2 / 9), abs=0.005)


def test_half_of_the_pairs_are_doubtful_ones_even_where_those_are_rare() -> None:
    jaccards = [0.99] * 1000 + [0.8, 0.81, 0.82, 0.84, 0.85, 0.86]
    chosen = choose_pairs(decisions(jaccards))["jaccard"].to_pylist()
    assert len(chosen) == 10
    assert sum(jaccard < 0.9 for jaccard in chosen) == 5


@pytest.mark.parametrize("jaccards", [[0.8, *[0.99] * 30], [*[0.8] * 30, 0.99], [0.9] * 30])
def test_where_one_half_has_too_few_the_other_fills_up(jaccards: list[float]) -> None:
    chosen = choose_pairs(decisions(jaccards))
    assert chosen.num_rows == len(set(chosen["id"].to_pylist())) == 10
    assert set(chosen["jaccard"].to_pylist()) == set(jaccards)


def test_equally_similar_documents_are_taken_in_the_order_of_their_ids() -> None:
    table = decisions([0.9] * 30)
    shuffled = table.take(np.random.default_rng(1).permutation(30))
    assert choose_pairs(shuffled, 3).equals(choose_pairs(table, 3))
    assert choose_pairs(table, 1)["id"].to_pylist() == ["00000"]


def test_exact_duplicates_and_kept_documents_are_not_chosen() -> None:
    table = decisions([1.0, 0.9, 1.0, 1.0], [EXACT_DUPLICATE, NEAR_DUPLICATE, None, NEAR_DUPLICATE])
    assert choose_pairs(table)["id"].to_pylist() == ["00001", "00003"]
    assert choose_pairs(table.slice(0, 1)).num_rows == 0


@given(st.lists(st.sampled_from([0.8, 0.81, 0.85, 0.9, 0.95, 1.0]), max_size=40), st.integers(1, 12))
def test_as_many_as_there_are_all_different_and_ascending(jaccards: list[float], count: int) -> None:
    chosen = choose_pairs(decisions(jaccards), count)
    assert chosen.num_rows == len(set(chosen["id"].to_pylist())) == min(count, len(jaccards))
    assert chosen["jaccard"].to_pylist() == sorted(chosen["jaccard"].to_pylist())
    middle = (min(jaccards, default=0) + max(jaccards, default=0)) / 2
    doubtful, available = (
        sum(value <= middle for value in values) for values in (chosen["jaccard"].to_pylist(), jaccards)
    )
    assert doubtful >= min(available, chosen.num_rows / 2)


def test_a_pair_stands_side_by_side_with_its_differences_marked() -> None:
    markdown = side_by_side(pair("이 법은 서울 시민을 위한다", "이 법은 모든 시민을 위한다", jaccard=0.81234))
    header, names, texts, _ = cells(markdown)
    assert [visible(cell) for cell in header] == ["Jaccard", "removed", "kept"]
    assert [visible(cell) for cell in names] == ["0.8123", "1, 15 characters", "law/2, 15 characters"]
    assert [visible(cell) for cell in texts] == [
        "",
        "이 법은 ⟦서울⟧ 시민을 위한다",
        "이 법은 ⟦모든⟧ 시민을 위한다",
    ]
    assert "**⟦`서울`⟧**" in markdown


def test_what_the_windows_do_not_show_is_said() -> None:
    words = [f"낱말{number}" for number in range(4000)]
    every_hundredth = ["바뀜" if number % 100 == 50 else word for number, word in enumerate(words)]
    few, many = (
        visible(cells(side_by_side(pair(" ".join(words[:count]), " ".join(every_hundredth[:count]))))[1][2])
        for count in (1000, 4000)
    )
    assert few.endswith("characters; 4 of 10 differences")
    assert "differences, up to 10,000 characters from the first" in many
    assert visible(cells(side_by_side(pair("같은 글", "같은  글")))[1][2]).endswith("; no word differs")


def test_without_pairs_there_is_a_sentence() -> None:
    assert side_by_side(pair("a", "b").slice(0, 0)) == "No near-duplicates were removed."


ALLOWED = {"text", "code_inline", "strong_open", "strong_close", "em_open", "em_close"}
TEXTS = st.text(max_size=60) | st.text("|`*_~[]()<>!#&;\\ \n-ab가", max_size=60) | st.sampled_from(HOSTILE)


@given(TEXTS, TEXTS, TEXTS)
def test_no_text_becomes_markdown_or_html(text: str, other: str, identifier: str) -> None:
    table = cells(side_by_side(pair(f"앞 {text} 뒤", f"앞 {other} 뒤", identifier=identifier)))
    assert [len(row) for row in table] == [3] * len(table)
    assert {token.type for row in table for cell in row for token in cell} <= ALLOWED
    outside_code = "".join(
        token.content for row in table[2:] for cell in row for token in cell if token.type == "text"
    )
    assert set(outside_code) <= set("…⟦⟧|` \u200b\u00a0")
    assert visible(table[1][1]).startswith(visible_as(identifier).strip())


@given(TEXTS)
def test_literal_text_is_read_as_it_stands(text: str) -> None:
    (row,) = cells(f"| {literal(f'({text})')} |\n| --- |")
    assert visible(row[0]) == visible_as(f"({text})")


def visible_as(text: str) -> str:
    """How a page shows a text: CommonMark replaces NUL; white space is one space."""
    return " ".join(f"<{text}>".split())[1:-1].replace("\x00", "\ufffd").replace("\u200b", "")


def test_long_words_may_be_broken() -> None:
    (row,) = cells(f"| {literal('#' * 100)} |\n| --- |")
    longest = max(len(token.content) for token in row[0])
    assert visible(row[0]) == "#" * 100 and longest <= 32

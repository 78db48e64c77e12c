"""Repeated paragraphs are those a plain count finds, and nothing else leaves a text."""

import subprocess
import sys
import tracemalloc
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yunmin_assets.dedup import normalize_text
from yunmin_assets.dedup.boilerplate.config import BoilerplateConfig
from yunmin_assets.dedup.boilerplate.hash_counts import HashCounts
from yunmin_assets.dedup.boilerplate.repeated_paragraphs import (
    Boilerplate,
    Removal,
    find_boilerplate,
    remove_boilerplate,
)
from yunmin_assets.dedup.boilerplate.report import render_boilerplate

ROOT = Path(__file__).resolve().parents[2]
AMPLE = 1 << 24
TINY = 1 << 10

HEADER = "제21대 국회 본회의 회의록"
FOOTER = "저작권자 ⓒ 윤민일보. 무단 전재 및 재배포 금지"
LINES = [
    "",
    "---",
    "짧다",
    "- 3 -",
    HEADER,
    "제21대 국회, 본회의   회의록!",
    unicodedata.normalize("NFD", HEADER),
    FOOTER,
    "(C) Yunmin DAILY, all rights reserved",
    "c yunmin daily all rights reserved",
    "    들여 쓴 본문의 한 줄입니다",
    "본문의 다른 한 줄입니다 😀",
    "값은 「1,000」입니다 \U0003ffff",
]
TEXTS = st.lists(st.lists(st.sampled_from(LINES), max_size=9).map("\n".join), max_size=8)
CONFIGS = st.builds(
    BoilerplateConfig,
    position=st.sampled_from(["edges", "anywhere"]),
    min_documents=st.integers(2, 4),
    min_share=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    min_characters=st.sampled_from([1, 3, 12]),
    min_edge_share=st.sampled_from([0.0, 0.5, 1.0]),
)
LENIENT = BoilerplateConfig(min_documents=2, min_share=0)


class Oracle:
    """The same in plain Python: strings, sets and loops."""

    def __init__(self, texts: Sequence[str], config: BoilerplateConfig) -> None:
        self.texts, self.config = texts, config
        self.counts = Counter(line for text in texts for line in self.long_paragraphs(text))
        self.threshold = next(
            count
            for count in range(10**6)
            if count >= max(config.min_documents, config.min_share * len(texts))
        )
        self.repeated = {line for line, count in self.counts.items() if count >= self.threshold}
        self.at_edge = Counter(
            line
            for text in texts
            for line in {normalize_text(text.split("\n")[place]) for place in self.edges(text)}
        )

    def long_paragraphs(self, text: str) -> set[str]:
        seen = {normalize_text(line) for line in text.split("\n")}
        return {line for line in seen if len(line) >= self.config.min_characters}

    def edges(self, text: str) -> set[int]:
        """Where the runs of repeated paragraphs from both ends of a text stand."""
        paragraphs = [(place, normalize_text(line)) for place, line in enumerate(text.split("\n"))]
        paragraphs = [(place, line) for place, line in paragraphs if line]
        found = set()
        for from_one_end in (paragraphs, paragraphs[::-1]):
            for place, line in from_one_end:
                if line not in self.repeated:
                    break
                found.add(place)
        return found

    def is_boilerplate(self, line: str) -> bool:
        if self.config.position == "anywhere":
            return line in self.repeated
        return self.at_edge[line] >= self.config.min_edge_share * self.counts[line] and line in self.repeated

    def removed(self, text: str) -> list[int]:
        lines = text.split("\n")
        places = self.edges(text) if self.config.position == "edges" else set(range(len(lines)))
        return sorted(place for place in places if self.is_boilerplate(normalize_text(lines[place])))

    def without(self, text: str) -> str:
        removed = self.removed(text)
        if not removed:
            return text
        kept: list[str] = []
        for place, line in enumerate(text.split("\n")):
            if place not in removed and not (line == "" and kept and kept[-1] == ""):
                kept.append(line)
        return "\n".join(kept).strip()


def table_of(texts: Sequence[str], kind: pa.DataType | None = None) -> pa.Table:
    return pa.table(
        {
            "id": [f"document-{number}" for number in range(len(texts))],
            "text": pa.array(texts, kind or pa.large_string()),
            "source": pa.array(["sample"] * len(texts), pa.string()),
        }
    )


def cut(table: pa.Table, size: int) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, size):
        yield table.slice(start, size)


def found_in(
    texts: Sequence[str],
    folder: Path,
    config: BoilerplateConfig = LENIENT,
    *,
    size: int = 3,
    memory: int = AMPLE,
) -> Boilerplate:
    table = table_of(texts)
    return find_boilerplate(
        lambda: cut(table, size), config, punctuation="ascii", workspace=folder, memory_bytes=memory
    )


def removal(texts: Sequence[str], boilerplate: Boilerplate, min_characters_left: int = 1) -> Removal:
    return remove_boilerplate(table_of(texts), boilerplate, min_characters_left=min_characters_left)


def texts_of(result: Removal) -> list[str]:
    return result.documents["text"].to_pylist()


@given(TEXTS, CONFIGS, st.integers(1, 8), st.sampled_from([TINY, AMPLE]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_report_and_removal_are_those_of_plain_python(
    tmp_path: Path, texts: list[str], config: BoilerplateConfig, size: int, memory: int
) -> None:
    oracle = Oracle(texts, config)
    boilerplate = found_in(texts, tmp_path, config, size=size, memory=memory)
    report = boilerplate.report
    all_lines = [line for text in texts for line in text.split("\n")]
    assert report.documents == len(texts)
    assert report.text_bytes == sum(len(text.encode()) for text in texts)
    assert report.threshold == oracle.threshold
    assert {normalize_text(entry.text) for entry in report.shown} == oracle.repeated
    assert report.repeated_paragraphs == len(oracle.repeated)
    assert report.documents_with_repeated == sum(
        bool(oracle.long_paragraphs(text) & oracle.repeated) for text in texts
    )
    for entry in report.shown:
        line = normalize_text(entry.text)
        occurrences = [other for other in all_lines if normalize_text(other) == line]
        assert entry.text == occurrences[0]
        assert entry.is_boilerplate == oracle.is_boilerplate(line)
        assert (entry.documents, entry.documents_at_edge) == (oracle.counts[line], oracle.at_edge[line])
        assert entry.text_bytes == sum(len(other.encode()) for other in occurrences)
    assert report.repeated_bytes == sum(entry.text_bytes for entry in report.shown)
    assert report.boilerplate_paragraphs == sum(entry.is_boilerplate for entry in report.shown)
    removed_lines = [text.split("\n")[place] for text in texts for place in oracle.removed(text)]
    assert report.boilerplate_bytes == sum(len(line.encode()) for line in removed_lines)

    result = removal(texts, boilerplate, min_characters_left=20)
    expected = [oracle.without(text) for text in texts]
    assert texts_of(result) == expected
    changed = [bool(oracle.removed(text)) for text in texts]
    assert result.documents_changed == sum(changed)
    assert result.paragraphs_removed == len(removed_lines)
    assert result.bytes_removed == sum(map(len, map(str.encode, texts))) - sum(
        map(len, map(str.encode, expected))
    )
    assert result.too_little_left.tolist() == [
        was_changed and len(left) < 20 for was_changed, left in zip(changed, expected, strict=True)
    ]


@given(TEXTS, CONFIGS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cuts_and_memory_do_not_matter(tmp_path: Path, texts: list[str], config: BoilerplateConfig) -> None:
    whole = found_in(texts, tmp_path, config, size=100)
    for size, memory in ((1, TINY // 4), (2, TINY), (5, AMPLE)):
        other = found_in(texts, tmp_path, config, size=size, memory=memory)
        assert other.report == whole.report
        assert other.hashes.tolist() == whole.hashes.tolist()
        assert other.is_boilerplate.tolist() == whole.is_boilerplate.tolist()
        parts = [
            remove_boilerplate(part, other, min_characters_left=20) for part in cut(table_of(texts), size)
        ]
        assert [text for part in parts for text in texts_of(part)] == texts_of(removal(texts, whole))


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**64 - 1])), max_size=6), st.data()
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hashes_are_counted_exactly_in_any_memory(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], data: st.DataObject
) -> None:
    memory, threshold = data.draw(st.sampled_from([TINY // 4, TINY, AMPLE])), data.draw(st.integers(1, 3))
    counts = HashCounts(tmp_path_factory.mktemp("scratch"), memory)
    for batch in batches:
        counts.add(np.array(batch, np.uint64))
    hashes, documents = counts.at_least(threshold)
    expected = Counter(value for batch in batches for value in batch)
    assert dict(zip(hashes.tolist(), documents.tolist(), strict=True)) == {
        value: count for value, count in expected.items() if count >= threshold
    }
    assert hashes.tolist() == sorted(hashes.tolist())


def test_counting_stays_within_its_memory_and_leaves_nothing_behind(tmp_path: Path) -> None:
    memory, batch, batches = 4_000_000, 10_000, 150
    generator = np.random.default_rng(0)
    often = generator.integers(0, 2**64, 10, np.uint64)
    counts = HashCounts(tmp_path, memory)
    tracemalloc.start()
    for _ in range(batches):
        counts.add(np.concatenate([often, generator.integers(0, 2**64, batch, np.uint64)]))
    hashes, documents = counts.at_least(batches)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert hashes.tolist() == sorted(often.tolist())
    assert documents.tolist() == [batches] * 10
    assert batches * batch * 8 > 2 * memory  # or holding everything would pass as well
    assert peak < memory

    texts = [f"{HEADER}\n본문 {number} 번 문서의 서로 다른 문장입니다" for number in range(300)]
    found_in(texts, tmp_path / "new" / "folder", size=50, memory=TINY)
    assert not list((tmp_path / "new" / "folder").iterdir())


def bodies(count: int) -> list[str]:
    return [
        f"{number}번째 안건은 예산안 심사에 관한 것으로 {number * 7919}건의 의견이 있었다"
        for number in range(count)
    ]


def test_a_header_is_found_whatever_its_punctuation_and_case_but_page_numbers_are_text(
    tmp_path: Path,
) -> None:
    variants = [
        "국회 회의록 Vol. 21",
        "국회 회의록, VOL 21!",
        "「국회 회의록」 vol.21",
        "국회  회의록 (vol 21)",
    ]
    texts = [f"{variants[number % 4]}\n\n{body}\n- {number} -" for number, body in enumerate(bodies(8))]
    boilerplate = found_in(texts, tmp_path, BoilerplateConfig(min_documents=3))
    (header,) = boilerplate.report.shown
    assert (header.text, header.documents, header.documents_at_edge) == (variants[0], 6, 6)
    result = removal(texts, boilerplate)
    assert texts_of(result)[0] == f"{bodies(1)[0]}\n- 0 -"
    assert texts_of(result)[2] == texts[2]  # 「」 are no ASCII punctuation: another paragraph
    paged = [f"국회 본회의 회의록 제{number}면\n{body}" for number, body in enumerate(bodies(8))]
    assert found_in(paged, tmp_path).report.shown == ()


def test_unicode_punctuation_is_ignored_if_the_comparison_does(tmp_path: Path) -> None:
    texts = [
        f"{header}\n{body}"
        for header, body in zip(["「제21대 국회」 본회의 회의록 ⓒ", HEADER], bodies(2), strict=True)
    ]
    table = table_of(texts)
    found = [
        find_boilerplate(
            lambda: [table], LENIENT, punctuation=punctuation, workspace=tmp_path, memory_bytes=AMPLE
        ).report.repeated_paragraphs
        for punctuation in ("ascii", "unicode")
    ]
    assert found == [0, 1]


def test_a_clause_in_the_middle_stays_unless_anywhere_is_asked_for(tmp_path: Path) -> None:
    clause = "이 영은 공포한 날부터 시행한다."
    texts = [f"{HEADER}\n{body}\n{clause}\n{body}!\n\n{FOOTER}" for body in bodies(10)]
    texts += [f"{body}\n{clause}" for body in bodies(14)[10:]]  # some documents happen to end with it
    edges = found_in(texts, tmp_path)
    assert [entry.text for entry in edges.report.shown if entry.is_boilerplate] == sorted([HEADER, FOOTER])
    assert texts_of(removal(texts, edges))[0] == f"{bodies(1)[0]}\n{clause}\n{bodies(1)[0]}!"
    assert texts_of(removal(texts, edges))[10:] == texts[10:]
    anywhere = found_in(texts, tmp_path, LENIENT.model_copy(update={"position": "anywhere"}))
    result = removal(texts, anywhere)
    assert texts_of(result)[0] == f"{bodies(1)[0]}\n{bodies(1)[0]}!"
    assert texts_of(result)[10] == bodies(11)[10]
    assert result.documents_changed == 14


def test_a_run_ends_at_the_first_paragraph_of_its_own(tmp_path: Path) -> None:
    texts = [f"{HEADER}\n---\n{FOOTER}\n{body}" for body in bodies(6)]
    texts.append(f"짧다\n{HEADER}\n{bodies(7)[6]}")
    result = removal(texts, found_in(texts, tmp_path))
    assert texts_of(result)[0] == f"---\n{bodies(1)[0]}"  # a rule is no paragraph, so it ends no run
    assert texts_of(result)[6] == texts[6]  # a short paragraph is one


def test_documents_of_boilerplate_only_are_named_and_short_ones_of_their_own_are_not(tmp_path: Path) -> None:
    texts = [f"{HEADER}\n{body}" for body in bodies(4)] + [HEADER, f"{HEADER}\n\n네.", "네.", ""]
    result = removal(texts, found_in(texts, tmp_path), min_characters_left=10)
    assert result.too_little_left.tolist() == [False] * 4 + [True, True, False, False]
    assert texts_of(result)[4:] == ["", "네.", "네.", ""]
    nothing_asked = removal(texts, found_in(texts, tmp_path), min_characters_left=0)
    assert nothing_asked.too_little_left.tolist() == [False] * 4 + [True, False, False, False]


def test_other_columns_and_the_type_of_the_text_are_carried_along(tmp_path: Path) -> None:
    texts = [f"{HEADER}\n{body}" for body in bodies(5)]
    boilerplate = found_in(texts, tmp_path)
    for kind in (pa.string(), pa.large_string()):
        table = pa.concat_tables([table_of(texts[:2], kind), table_of(texts[2:], kind)])
        result = remove_boilerplate(table, boilerplate, min_characters_left=1)
        assert result.documents.schema == table.schema
        assert result.documents.drop_columns("text").equals(table.drop_columns("text"))
        assert texts_of(result) == bodies(5)


def test_an_empty_domain_and_a_domain_of_one_document_have_no_boilerplate(tmp_path: Path) -> None:
    for texts in ([], [f"{HEADER}\n{HEADER}\n{HEADER}"]):
        boilerplate = found_in(texts, tmp_path)
        assert boilerplate.report.shown == ()
        assert boilerplate.report.boilerplate_share == 0
        assert removal(texts, boilerplate).documents.equals(table_of(texts))
    assert "0 paragraphs stand in 2 or more of 1 documents" in render_boilerplate(boilerplate.report)


def test_a_document_of_a_hundred_thousand_paragraphs_counts_once(tmp_path: Path) -> None:
    body = "\n".join(f"{number}번 조문은 다음과 같이 한다" for number in range(100_000))
    texts = [f"{HEADER}\n{body}\n{FOOTER}", f"{HEADER}\n{HEADER}\n네, 그렇습니다.\n{FOOTER}"]
    boilerplate = found_in(texts, tmp_path, memory=1 << 20)
    assert [(entry.text, entry.documents) for entry in boilerplate.report.shown] == [(FOOTER, 2), (HEADER, 2)]
    assert texts_of(removal(texts, boilerplate)) == [body, "네, 그렇습니다."]


def test_the_report_shows_boilerplate_first_and_breaks_ties_by_text(tmp_path: Path) -> None:
    often = "어느 문서에나 있는 가운데 문장입니다"
    groups = [f"{letter} 모임이 만든 문서의 머리글" for letter in "하파타카차자아사바마라다나가"]
    texts = [
        f"{group}\n{body}\n{often}\n{body}."
        for group in groups
        for body in (f"{group} {n}" for n in range(3))
    ]
    shown = found_in(texts, tmp_path).report.shown
    assert [entry.text for entry in shown] == [*sorted(groups), often]
    many = [f"{number}호 게시판에 실린 글의 머리글\n{body}" for number in range(40) for body in bodies(2)]
    assert len(found_in(many, tmp_path).report.shown) == 20


def test_the_rendered_report_is_a_table_that_text_cannot_break(tmp_path: Path) -> None:
    long_header = "머리글 | 10:00~18:00 " * 40
    texts = [f"{long_header}\n{body}" for body in bodies(4)]
    *_, row = render_boilerplate(found_in(texts, tmp_path).report).split("\n")
    cells = row.split(" | ")
    text = "| `머리글` &#124; `10:00~18:00 머리글` &#124;"  # code spans: neither a table nor a strike-through
    assert cells[0].startswith(text)
    assert cells[0].endswith("…`")
    assert cells[1:4] == ["yes", "4", "4"]


def test_the_defaults_ask_for_ten_documents_and_one_in_two_hundred(tmp_path: Path) -> None:
    for documents, repeats, is_repeated in (
        (20, 9, False),
        (20, 10, True),
        (2200, 10, False),
        (2200, 11, True),
    ):
        texts = [f"{HEADER}\n{body}" for body in bodies(repeats)] + bodies(documents)[repeats:]
        report = found_in(texts, tmp_path, BoilerplateConfig(), size=1000).report
        assert report.repeated_paragraphs == is_repeated


def test_batches_that_can_be_read_only_once_are_refused(tmp_path: Path) -> None:
    once = iter([table_of([f"{HEADER}\n{body}" for body in bodies(4)])])
    with pytest.raises(ValueError, match=r"gave 4 documents when called first and 0 when called again"):
        find_boilerplate(lambda: once, LENIENT, punctuation="ascii", workspace=tmp_path, memory_bytes=AMPLE)


def test_nulls_and_a_limit_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="column 'text' has 1 nulls"):
        found_in(["가", None], tmp_path)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="memory_bytes is 0"):
        found_in(["가"], tmp_path, memory=0)


def test_the_options_load_without_the_compiler() -> None:
    code = "import sys, yunmin_assets.dedup.boilerplate.config; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

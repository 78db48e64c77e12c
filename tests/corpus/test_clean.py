"""Cleaning keeps every document that is one, and accounts for every line that is none."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from yunmin_assets.corpus.clean import CleanSummary, clean_domain, clean_text
from yunmin_assets.corpus.config import CorpusConfig
from yunmin_assets.corpus.listing import list_domains
from yunmin_assets.corpus.raw import inspect_object
from yunmin_assets.documents import DOCUMENT_SCHEMA, document_files, read_documents

LONG = "가나다라마바사아자차카타파하 " * 10


def clean(tmp_path: Path, lines: list[bytes | dict[str, Any]], **options: Any) -> tuple[CleanSummary, Path]:
    raw, out = UPath(tmp_path / "raw"), tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    encoded = [
        line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in lines
    ]
    (raw / "law.jsonl").write_bytes(b"\n".join(encoded))
    objects = [inspect_object(raw, path) for path in list_domains(raw)["law"].objects]
    return clean_domain(raw, "law", objects, out, CorpusConfig(**options)), out


def documents(folder: Path) -> list[dict[str, Any]]:
    return read_documents(document_files(folder)).to_pylist()


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        (unicodedata.normalize("NFD", "한국어"), "한국어"),
        ("제목\r\n\r\n\r\n\r\n본문\r끝", "제목\n\n본문\n끝"),
        ("가\u200b나\ufeff다\x00라\x1b마", "가나다라마"),
        ("가  나\t\t다\u00a0 \u3000라  ", "가 나 다 라"),
        ("def f():\n    return  1", "def f():\n    return 1"),
        ("👩\u200d💻 코드", "👩\u200d💻 코드"),
        ("  \n \n", ""),
    ],
)
def test_text_is_composed_and_freed_of_what_nobody_sees(raw: str, cleaned: str) -> None:
    assert clean_text(raw) == cleaned


@given(st.text())
def test_cleaning_twice_changes_nothing_and_keeps_every_visible_character(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    visible = {c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c)[0] in "LNPS"}
    assert visible <= set(once)


def test_every_line_ends_as_a_document_removed_or_rejected(tmp_path: Path) -> None:
    lines: list[bytes | dict[str, Any]] = [
        {"id": "a", "text": LONG + "하나", "meta": {"page": 1}, "license": "CC0-1.0"},
        {"text": LONG + "둘"},
        {"id": "c", "text": LONG + "\x00하나"},  # the same once it is clean
        {"id": "d", "text": "짧다"},
        {"id": "a", "text": LONG + "셋"},
        b'{"text": "broken',
        b'{"text": "\xff"}',
        {"title": "no text"},
    ]
    summary, folder = clean(tmp_path, lines, max_reject_share=1.0)
    assert (
        summary.lines
        == 8
        == summary.documents + sum(summary.removed.values()) + sum(summary.rejected.values())
    )
    assert dict(summary.removed) == {"exact duplicate": 1, "too short": 1}
    assert [document["id"] for document in documents(folder)] == ["a", "law.jsonl#2"]
    assert documents(folder)[0]["meta"] == '{"page":1}'
    removed = pq.read_table(folder / "removed.parquet").to_pylist()
    assert [(row["id"], row["reason"], row["survivor_id"]) for row in removed] == [
        ("c", "exact duplicate", "a"),
        ("d", "too short", None),
    ]
    rejects = pq.read_table(folder / "rejects.parquet").to_pylist()
    assert [(row["file"], row["line"]) for row in rejects] == [("law.jsonl", line) for line in (5, 6, 7, 8)]
    assert rejects[2]["content"] == b'{"text": "\xff"}', "a reject is kept byte for byte"


def test_rejects_are_counted_by_kind_whatever_their_details(tmp_path: Path) -> None:
    lines: list[bytes | dict[str, Any]] = [
        {"id": "a", "text": LONG},
        b'{"text',
        b'{"text": "x',
        {"id": "a", "text": "y"},
    ]
    summary, _ = clean(tmp_path, lines)
    assert dict(summary.rejected) == {"broken JSON": 2, "repeated id": 1}
    assert summary.reject_share == pytest.approx(0.75)


def test_documents_have_the_declared_schema_and_spread_over_files_of_bounded_length(tmp_path: Path) -> None:
    summary, folder = clean(
        tmp_path, [{"text": f"{LONG}{number}"} for number in range(25)], documents_per_file=10
    )
    tables = [pq.read_table(path) for path in document_files(folder)]
    assert [len(table) for table in tables] == [10, 10, 5]
    assert all(table.schema.equals(DOCUMENT_SCHEMA) for table in tables)
    assert summary.bytes_clean_text == sum(
        len(text.encode()) for text in pa.concat_tables(tables)["text"].to_pylist()
    )


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    outputs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        _, folder = clean(tmp_path / name, [{"text": f"{LONG}{number}"} for number in range(25)])
        outputs.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert outputs[0] == outputs[1]


def test_a_domain_without_documents_still_writes_its_accounts(tmp_path: Path) -> None:
    summary, folder = clean(tmp_path, [{"text": "짧다"}])
    assert (summary.documents, document_files(folder)) == (0, [])
    assert pq.read_table(folder / "removed.parquet").num_rows == 1

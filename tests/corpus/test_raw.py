"""Raw objects are listed, pinned and read, and damage is named with its place."""

import gzip
import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3fs import S3FileSystem
from upath import UPath

from resources.lake import S3_CLIENT, open_uri
from resources.publishing import HOPELESS
from tests.s3_proxy import Proxy, no_fault
from yunmin_assets.corpus.listing import (
    ListedObject,
    ObjectInMotionError,
    RawObjectError,
    list_domains,
    look_again,
)
from yunmin_assets.corpus.raw import inspect_object, parse_line, read_lines

LINES = [f'{{"text": "문서 {number}"}}' for number in range(5)]
CONTENT = "\n".join(LINES).encode()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def root(tmp_path: Path) -> UPath:
    return UPath(tmp_path)


def write(root: UPath, name: str, content: bytes) -> ListedObject:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return listed(root, name)


def listed(root: UPath, name: str) -> ListedObject:
    found = look_again(root, name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", CONTENT),
        ("a.jsonl.gz", gzip.compress(CONTENT, mtime=0)),
        ("a.jsonl.zst", zstd(CONTENT)),
        ("two_frames.jsonl.zst", zstd(CONTENT[:40]) + zstd(CONTENT[40:])),
        ("blank_lines.jsonl", CONTENT.replace(b"\n", b"\n\n \r\n") + b"\n"),
    ],
)
def test_every_line_is_read_whatever_the_compression(root: UPath, name: str, content: bytes) -> None:
    seen = inspect_object(root, write(root, name, content))
    assert (seen.lines, seen.bytes, seen.name) == (5, len(content), name)
    assert [line.strip().decode() for _, line in read_lines(root, seen)] == LINES


def test_line_numbers_count_blank_lines_so_that_an_editor_finds_them(root: UPath) -> None:
    seen = inspect_object(root, write(root, "a.jsonl", b'{"text": "x"}\n\n\n{"text": "y"}\n'))
    assert [number for number, _ in read_lines(root, seen)] == [1, 4]


def test_parquet_rows_are_documents_too(root: UPath) -> None:
    table = pa.table({"text": ["하나", "둘"], "id": ["1", "2"]})
    pq.write_table(table, str(root / "a.parquet"))
    seen = inspect_object(root, listed(root, "a.parquet"))
    assert seen.lines == 2
    assert [row for _, row in read_lines(root, seen)] == table.to_pylist()


@pytest.mark.parametrize("size", [0, 1, 3])
def test_an_empty_or_nearly_empty_file_has_no_lines(root: UPath, size: int) -> None:
    assert inspect_object(root, write(root, "a.jsonl", b"\n" * size)).lines == 0


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz"])
def test_truncated_compressed_data_is_an_error_that_names_file_and_line(root: UPath, name: str) -> None:
    content = "\n".join(f'{{"text": "문서 {number * 7919}"}}' for number in range(200_000)).encode()
    compressed = zstd(content) if name.endswith("zst") else gzip.compress(content)
    path = write(root, name, compressed[: len(compressed) // 2])
    with pytest.raises(RawObjectError, match=rf"{name}, after line \d+: the compressed data is truncated"):
        inspect_object(root, path)


def test_a_truncated_parquet_file_is_an_error_that_names_it(root: UPath) -> None:
    pq.write_table(pa.table({"text": ["하나"] * 100}), str(root / "a.parquet"))
    path = write(root, "a.parquet", (root / "a.parquet").read_bytes()[:-20])
    with pytest.raises(RawObjectError, match=r"a\.parquet, after row 0: not a whole Parquet file"):
        inspect_object(root, path)


def test_an_object_that_changed_since_it_was_seen_is_refused(root: UPath) -> None:
    seen = inspect_object(root, write(root, "a.jsonl", CONTENT))
    write(root, "a.jsonl", CONTENT.replace(b"0", b"9"))
    with pytest.raises(RawObjectError, match=r"a\.jsonl changed since raw_corpus saw it"):
        list(read_lines(root, seen))
    (root / "a.jsonl").unlink()
    with pytest.raises(RawObjectError, match=r"a\.jsonl is gone since raw_corpus saw it"):
        list(read_lines(root, seen))


def test_an_object_that_moves_between_listing_and_reading_is_named_and_may_be_tried_again(
    root: UPath,
) -> None:
    item = write(root, "a.jsonl", CONTENT)
    write(root, "a.jsonl", CONTENT * 2)
    with pytest.raises(ObjectInMotionError, match=r"a\.jsonl was written again while raw_corpus read it"):
        inspect_object(root, item)
    (root / "a.jsonl").unlink()
    with pytest.raises(ObjectInMotionError, match=r"a\.jsonl was removed while raw_corpus read it"):
        inspect_object(root, item)


def test_an_object_on_s3_that_moves_between_listing_and_reading_is_named_too(s3_endpoint: str) -> None:
    root = open_uri("s3://lake/moving", s3_endpoint)
    item = write(root, "law/a.jsonl.zst", zstd(CONTENT))
    write(root, "law/a.jsonl.zst", zstd(CONTENT)[:20])
    with pytest.raises(ObjectInMotionError, match=r"law/a\.jsonl\.zst was written again"):
        inspect_object(root, item)
    root.fs.rm_file((root / "law/a.jsonl.zst").path)
    with pytest.raises(ObjectInMotionError, match=r"law/a\.jsonl\.zst was removed"):
        inspect_object(root, item)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "x"', "broken JSON: .* at character"),
        (b'{"text": "\xff\xfe"}', "invalid UTF-8 at byte 10"),
        (b'{"text": "\\ud800"}', "broken JSON"),
        (b'{"title": "x"}', "missing field: text"),
        (b'{"text": null}', "text is not a string but NoneType"),
        (b'["text"]', "not a JSON object but list"),
    ],
)
def test_a_line_that_holds_no_document_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_line(line)


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and line.strip()), max_size=30))
def test_reading_returns_exactly_the_lines_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    root = UPath(tmp_path_factory.mktemp("raw"))
    for name, content in (("a.jsonl", b"\n".join(lines)), ("a.jsonl.zst", zstd(b"\n".join(lines)))):
        seen = inspect_object(root, write(root, name, content))
        assert [line for _, line in read_lines(root, seen)] == lines


def test_objects_on_s3_are_read_like_local_ones(s3_endpoint: str) -> None:
    root = UPath("s3://lake/raw", client_kwargs={"endpoint_url": s3_endpoint})
    (root / "law" / "a.jsonl.zst").write_bytes(zstd(CONTENT))
    (root / "tech.jsonl").write_bytes(CONTENT)
    found = list_domains(root)
    assert list(found) == ["law", "tech"]
    seen = inspect_object(root, found["law"].objects[0])
    assert (seen.name, seen.lines) == ("law/a.jsonl.zst", 5)
    assert seen.etag
    assert [line.decode() for _, line in read_lines(root, seen)] == LINES


@pytest.mark.parametrize("fault", ["refuse", "cut", "hang"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_store_that_fails_is_not_taken_for_damage_and_a_retry_helps(
    s3_endpoint: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    monkeypatch.setitem(S3_CLIENT, "read_timeout", 2)
    monkeypatch.setitem(S3_CLIENT, "retries", {"mode": "standard", "total_max_attempts": 1})
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    parquet = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["하나", "둘"]}), parquet)
    contents = {
        "gz": gzip.compress(CONTENT),
        "zst": zstd(CONTENT),
        "parquet": parquet.getvalue().to_pybytes(),
    }
    (open_uri("s3://lake/overloaded", s3_endpoint) / name).write_bytes(
        contents.get(name.split(".")[-1], CONTENT)
    )
    root = open_uri("s3://lake/overloaded", proxy.url)
    item = listed(root, name)
    passed_on = itertools.count(
        -1 if name.endswith(".parquet") else 0
    )  # it is read twice: the second time fails
    proxy.breaks = lambda asked, before: fault if asked == name and next(passed_on) >= 0 else None
    with pytest.raises(Exception) as caught:
        inspect_object(root, item)
    assert not isinstance(caught.value, HOPELESS), caught.value
    proxy.breaks = no_fault
    monkeypatch.setitem(S3_CLIENT, "read_timeout", 60)
    assert inspect_object(open_uri("s3://lake/overloaded", proxy.url), item).lines in (2, 5)

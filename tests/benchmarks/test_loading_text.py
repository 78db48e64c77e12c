"""The texts that the loading benchmark reads from JSONL and from Parquet are the same."""

from pathlib import Path

import orjson
import pytest
import zstandard

from benchmarks.loading_text import read_arrow, read_json, read_orjson, read_parquet, write_documents

TEXTS = [f"문서 {number}: 가나다라" for number in range(2500)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Documents of a made-up corpus, with a broken line among them."""
    lines = [
        orjson.dumps({"id": f"d{place}", "text": text, "domain": "x"}) for place, text in enumerate(TEXTS)
    ]
    content = b"\n".join([*lines[:100], b'{"text": ', *lines[100:]])
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "x.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(content))
    sizes = write_documents(tmp_path, tmp_path / "corpus")
    assert sizes["documents"] == len(TEXTS)
    assert sizes["text_bytes"] == sum(len(text.encode()) for text in TEXTS)
    return tmp_path


def test_all_readers_find_the_same_texts(folder: Path) -> None:
    for read in (read_json, read_orjson, read_parquet):
        assert list(read(folder)) == TEXTS
    assert [text for column in read_arrow(folder) for text in column.to_pylist()] == TEXTS


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*\.jsonl"):
        write_documents(tmp_path, tmp_path)

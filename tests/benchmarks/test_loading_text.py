"""The texts that the loading benchmark reads from JSONL and from Parquet are the same."""

from pathlib import Path

import orjson
import pytest
import zstandard

from benchmarks.loading_text import READERS, write_documents

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
    for name, (_, read) in READERS.items():
        found = list(read(folder))
        assert (found if name != "arrow" else [text for part in found for text in part.to_pylist()]) == TEXTS


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*\.jsonl"):
        write_documents(tmp_path, tmp_path)

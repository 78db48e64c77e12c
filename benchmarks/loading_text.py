"""The text column alone, JSONL against Parquet: `loading` starts it as `python -m benchmarks.loading_text`.

The same documents lie in `documents.jsonl`, one object with all columns per line, and `documents.parquet`,
laid out like the *documents* product: zstd-3, row groups of 1024. Files ready to read on both sides.
"""

import argparse
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from benchmarks.measure import MEGABYTE, measured, memory_mb, versions
from yunmin_assets.columnar.loading_readers import (
    texts_as_arrow,
    texts_by_json,
    texts_by_orjson,
    texts_by_parquet,
)
from yunmin_assets.columnar.loading_sample import DOCUMENTS_JSONL, DOCUMENTS_PARQUET

SAMPLE_DOCUMENTS_PER_DOMAIN = 4000

Texts = Iterator[Any]


def write_documents(out: Path, corpus: Path | None) -> dict[str, Any]:
    """Write both files into an existing folder.

    Args:
        corpus: folder of JSON lines, compressed or not; about 20,000 synthetic documents when absent.
    """
    from yunmin_assets.corpus.sample import write_sample_corpus
    from yunmin_assets.documents import DOCUMENT_SCHEMA
    from yunmin_assets.documents import write_documents as write_parquet

    if corpus is None:
        corpus = out / "sample"
        write_sample_corpus(corpus, documents_per_domain=SAMPLE_DOCUMENTS_PER_DOMAIN)
    rows = [_document(line, place) for place, line in enumerate(_lines(corpus))]
    table = pa.Table.from_pylist([row for row in rows if row is not None], DOCUMENT_SCHEMA)
    write_parquet(table, out / DOCUMENTS_PARQUET)
    with (out / DOCUMENTS_JSONL).open("wb") as file:
        file.writelines(orjson.dumps(row) + b"\n" for row in table.to_pylist())
    return {
        "documents": table.num_rows,
        "text_bytes": pc.sum(pc.binary_length(table["text"])).as_py(),
        "jsonl_bytes": (out / DOCUMENTS_JSONL).stat().st_size,
        "parquet_bytes": (out / DOCUMENTS_PARQUET).stat().st_size,
    }


@cache
def _encoded_texts(folder: Path) -> list[bytes]:
    return [text.encode() for text in texts_by_parquet(folder)]


def decoded_texts(folder: Path) -> Texts:
    """The floor of every reader that gives strings: UTF-8 that lies in memory, decoded by Python."""
    for text in _encoded_texts(folder):
        yield text.decode()


READERS: dict[str, tuple[str, Callable[[Path], Texts]]] = {
    "json": ("JSONL, Python's json", texts_by_json),
    "orjson": ("JSONL, orjson", texts_by_orjson),
    "parquet": ("Parquet, Python strings", texts_by_parquet),
    "arrow": ("Parquet, Arrow arrays", texts_as_arrow),
    "decode": ("UTF-8 in memory to Python strings, nothing else", decoded_texts),
}


def main() -> None:
    """Read all texts once to warm up and to say what was found, and once for the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    anonymous = memory_mb("RssAnon")
    read = READERS[arguments.reader][1]
    characters = sum(map(_characters, read(arguments.folder)))
    _, cost = measured(lambda: sum(1 for _ in read(arguments.folder)))
    report = {**asdict(cost), "anonymous_at_start_mb": anonymous, "characters": characters}
    print(json.dumps({**report, "versions": versions(["orjson", "pyarrow"])}))


def text_table(sizes: dict[str, Any], reports: dict[str, dict[str, Any]]) -> str:
    """What each reader took, in Markdown."""
    from benchmarks.measure import markdown_table

    rows = []
    for name, report in reports.items():
        rates = [sizes["documents"] / report[key] for key in ("cpu_s", "cpu_s_median")]
        rows.append(
            [
                READERS[name][0],
                f"{rates[0]:,.0f} ({rates[1]:,.0f})",
                f"{sizes['text_bytes'] / report['cpu_s'] / MEGABYTE:,.0f}",
                f"{report['peak_anonymous_mb'] - report['anonymous_at_start_mb']:,.0f}",
                f"{reports['json']['cpu_s_median'] / report['cpu_s_median']:.1f}×"
                if "json" in reports
                else "",
            ]
        )
    share = sizes["parquet_bytes"] / sizes["jsonl_bytes"]
    table = markdown_table(["reader", "docs/CPU-s (median)", "MB/CPU-s", "extra MB", "json is"], rows)
    return (
        f"{table}\n\n{sizes['documents']:,} documents, {sizes['text_bytes'] / MEGABYTE:.1f} MB of text; JSONL "
        f"{sizes['jsonl_bytes'] / MEGABYTE:.1f} MB, Parquet {sizes['parquet_bytes'] / MEGABYTE:.1f} MB: {share:.1%}"
    )


def _lines(corpus: Path) -> Iterator[bytes]:
    files = sorted(corpus.glob("*.jsonl*"))
    if not files:
        raise FileNotFoundError(f"{corpus}: no *.jsonl, *.jsonl.gz or *.jsonl.zst in this folder")
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".zst":
            content = zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True).read()
        elif path.suffix == ".gz":
            content = gzip.decompress(content)
        yield from content.split(b"\n")


def _document(line: bytes, place: int) -> dict[str, Any] | None:
    """A line with the columns of `DOCUMENT_SCHEMA`; None for a broken line (the sample has some planted)."""
    try:
        found = orjson.loads(line)
        if not isinstance(found["text"], str):
            return None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    meta = found.get("meta")
    names = ("text", "source", "lang", "domain", "license")
    return {
        "id": str(found.get("id", place)),
        **{name: str(found.get(name) or "") for name in names},
        "meta": meta if isinstance(meta, str) else orjson.dumps(meta or {}).decode(),
    }


def _characters(item: Any) -> int:
    return len(item) if isinstance(item, str) else pc.sum(pc.utf8_length(item)).as_py()


if __name__ == "__main__":
    main()

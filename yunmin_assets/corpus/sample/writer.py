"""Writes the sample corpus: JSON lines per domain (zstd, gzip and plain), and the truth beside them.

    <folder>/korean_textbook.jsonl.zst        id, text, source, lang, domain, license per line
    <folder>/national_assembly_data.jsonl.gz
    <folder>/social_media_data.jsonl
    <folder>/…
    <folder>/_truth/pairs.parquet             a, b, kind, jaccard: all pairs of one original, a < b
    <folder>/_truth/summary.json              `SampleSummary`
    <folder>/_truth/README.md

Readers of the corpus pass over `_truth` because its name starts with an underscore.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from yunmin_assets.corpus.sample.grammar import DOMAINS, compose, load_domain
from yunmin_assets.corpus.sample.planting import Pair, Planted, pairs_of_families, plant
from yunmin_assets.documents import SYNTHETIC_SOURCE

SOURCE, LICENSE, LANGUAGE = f"{SYNTHETIC_SOURCE}yunmin-sample", "CC0-1.0", "ko"
SUFFIXES = {"national_assembly_data": ".jsonl.gz", "social_media_data": ".jsonl"}
DEFAULT_SUFFIX = ".jsonl.zst"
NEAR_DUPLICATE = 0.8

BROKEN_LINES = ("bad_json", "missing_text", "text_not_a_string")
BROKEN_SHARE = 0.003

PAIR_SCHEMA = pa.schema(
    [
        pa.field("a", pa.string(), nullable=False),
        pa.field("b", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("jaccard", pa.float64(), nullable=False),
    ]
)

TRUTH_README = """# Truth of the synthetic sample corpus

All texts of this corpus are synthetic (source `{source}`, {license}).
`pairs.parquet` (a, b, kind, jaccard) holds every pair of documents that were made from one original, with
the exact Jaccard similarity of their character 13-grams after NFC, lower case, removal of ASCII punctuation
and collapsing of white space. Every pair of the corpus at 0.8 or more is in it; no two documents of full
length and different originals come near 0.5.
`kind` is how the variant was made; `same_original` are two variants of one original.
"""


@dataclass(frozen=True)
class SampleSummary:
    """What was written."""

    seed: int
    synthetic: bool
    files: dict[str, str]
    """File name per domain."""
    documents: dict[str, int]
    """Readable documents per domain, plants included."""
    text_bytes: dict[str, int]
    """UTF-8 bytes of the documents' text per domain."""
    planted: dict[str, int]
    """Documents per kind of plant, over all domains."""
    broken_lines: dict[str, int]
    """Lines without a readable document per kind, over all domains."""
    pairs: int
    """Rows of `_truth/pairs.parquet`."""
    near_duplicate_pairs: int
    """Those with an exact Jaccard similarity of 0.8 or more."""


def write_sample_corpus(folder: Path, *, seed: int = 0, documents_per_domain: int = 2000) -> SampleSummary:
    """Write the sample corpus into `folder`, replacing files of the same name.

    Args:
        folder: is created when it does not exist.
        seed: the same seed and size give the same bytes.
        documents_per_domain: readable documents in each of the five domains, at least 100.

    Raises:
        ValueError: `documents_per_domain` is below 100.
    """
    documents = plant(seed, documents_per_domain)
    pairs = pairs_of_families(documents)
    broken: Counter[str] = Counter()
    for name in DOMAINS:
        lines, kinds = _lines(documents[name], seed)
        broken.update(kinds)
        _write_bytes(folder / _file_name(name), _compressed(lines, _file_name(name)))
    summary = _summary(documents, pairs, broken, seed)
    _write_truth(folder / "_truth", pairs, summary)
    return summary


def _lines(documents: Sequence[Planted], seed: int) -> tuple[bytes, list[str]]:
    """The domain's file content, broken lines mixed in, and the kinds of those."""
    domain = documents[0].domain
    rng = random.Random(f"{seed}/{domain}/broken")
    lines = [_line(document) for document in documents]
    kinds = []
    for number in range(max(1, int(len(documents) * BROKEN_SHARE))):
        kind = BROKEN_LINES[number % len(BROKEN_LINES)]
        kinds.append(kind)
        lines.insert(rng.randrange(len(lines) + 1), _broken_line(kind, domain, number, rng))
    return ("\n".join(lines) + "\n").encode(), kinds


def _line(document: Planted) -> str:
    record = {"id": document.id, "text": document.text, **_labels(document.domain)}
    return json.dumps(record, ensure_ascii=False)


def _broken_line(kind: str, domain: str, number: int, rng: random.Random) -> str:
    record: dict[str, object] = {"id": f"{domain}/broken-{number}", **_labels(domain)}
    if kind == "missing_text":
        return json.dumps(record, ensure_ascii=False)
    if kind == "text_not_a_string":
        return json.dumps(record | {"text": rng.randrange(1_000_000)}, ensure_ascii=False)
    whole = json.dumps(record | {"text": compose(load_domain(domain), rng)}, ensure_ascii=False)
    return whole[: len(whole) // 2]


def _labels(domain: str) -> dict[str, str]:
    return {"source": SOURCE, "lang": LANGUAGE, "domain": domain, "license": LICENSE}


def _file_name(domain: str) -> str:
    return domain + SUFFIXES.get(domain, DEFAULT_SUFFIX)


def _compressed(content: bytes, file_name: str) -> bytes:
    if file_name.endswith(".gz"):
        return gzip.compress(content, mtime=0)  # no time stamp: same seed, same bytes
    if file_name.endswith(".zst"):
        return zstandard.ZstdCompressor(level=10).compress(content)
    return content


def _summary(
    documents: Mapping[str, Sequence[Planted]], pairs: Sequence[Pair], broken: Counter[str], seed: int
) -> SampleSummary:
    kinds = Counter(document.kind for name in DOMAINS for document in documents[name])
    return SampleSummary(
        seed=seed,
        synthetic=True,
        files={name: _file_name(name) for name in DOMAINS},
        documents={name: len(documents[name]) for name in DOMAINS},
        text_bytes={name: sum(len(each.text.encode()) for each in documents[name]) for name in DOMAINS},
        planted={kind: kinds[kind] for kind in sorted(kinds) if kind != "original"},
        broken_lines={kind: broken[kind] for kind in BROKEN_LINES},
        pairs=len(pairs),
        near_duplicate_pairs=sum(pair.jaccard >= NEAR_DUPLICATE for pair in pairs),
    )


def _write_truth(folder: Path, pairs: Sequence[Pair], summary: SampleSummary) -> None:
    table = pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=PAIR_SCHEMA)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "pairs.parquet.part"
    pq.write_table(table, part, compression="zstd")
    part.replace(folder / "pairs.parquet")
    _write_bytes(folder / "summary.json", json.dumps(asdict(summary), ensure_ascii=False, indent=2).encode())
    _write_bytes(folder / "README.md", TRUTH_README.format(source=SOURCE, license=LICENSE).encode())


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def describe(summary: SampleSummary) -> Iterator[str]:
    """Lines that tell a person what was written."""
    yield f"Synthetic sample corpus, seed {summary.seed}"
    for name in summary.files:
        size = summary.text_bytes[name] / 1e6
        yield f"  {summary.files[name]:36} {summary.documents[name]:6,} documents {size:6.1f} MB of text"
    yield "Planted: " + ", ".join(f"{kind} {count:,}" for kind, count in summary.planted.items())
    yield "Broken lines: " + ", ".join(f"{kind} {count:,}" for kind, count in summary.broken_lines.items())
    close = summary.near_duplicate_pairs
    yield f"Pairs of one original: {summary.pairs:,}, of which {close:,} at Jaccard ≥ {NEAR_DUPLICATE}"

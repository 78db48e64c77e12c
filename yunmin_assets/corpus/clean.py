"""Raw lines in, clean documents out; everything that does not come out is counted with a reason.

Text becomes NFC without control characters or surplus white space; indentation stays, because source
code lives in it. Too short documents and exact duplicates within the domain (the same cleaned text, by a
128-bit BLAKE2b hash) are removed; lines that hold no document go to the rejects.

Price: one pass; memory holds one output batch and, per document, its id and 16 bytes of hash.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from yunmin_assets.corpus.config import CorpusConfig
from yunmin_assets.corpus.raw import RawObject, parse_line, read_lines
from yunmin_assets.documents import (
    DOCUMENT_SCHEMA,
    DOCUMENT_WRITE_OPTIONS,
    EXACT_DUPLICATE,
    ROW_GROUP_DOCUMENTS,
)
from yunmin_assets.progress import Log, Progress, silent

REJECT_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("content", pa.binary(), nullable=False),  # as found: it may not be UTF-8
    ]
)
REMOVED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("survivor_id", pa.string()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("excerpt", pa.string(), nullable=False),
    ]
)
TOO_SHORT = "too short"
EXCERPT_CHARACTERS = 200
TEXT_HASH_BYTES = 16
_BATCH_DOCUMENTS = ROW_GROUP_DOCUMENTS

_SPACES_IN_LINE = re.compile(r"(?<=\S)(?:[^\S\n]{2,}|[^\S\n ])")  # not behind a line end: that is indentation
_SPACES_AT_LINE_END = re.compile(r"[^\S\n]+(?=\n)")
_MANY_NEWLINES = re.compile(r"\n{3,}")
_ZERO_WIDTH = (0xAD, 0x200B, 0x2060, 0xFEFF)  # soft hyphen, zero-width space, word joiner, byte order mark


def _invisible_characters() -> dict[int, str | None]:
    """A table for `str.translate`: line ends become \\n, tabs stay, other control characters go."""
    table: dict[int, str | None] = {code: None for code in [*range(0x20), *range(0x7F, 0xA0), *_ZERO_WIDTH]}
    del table[ord("\t")], table[ord("\n")]
    return table | {0x0B: "\n", 0x0C: "\n", 0x85: "\n", 0x2028: "\n", 0x2029: "\n"}


_INVISIBLE = _invisible_characters()
_ANY_INVISIBLE = re.compile(f"[{re.escape(''.join(map(chr, _INVISIBLE)))}]")


def clean_text(text: str) -> str:
    """NFC, no control characters, no surplus white space.

    Line ends become ``\\n`` and at most one empty line stays between paragraphs. Inside a line each run of
    white space becomes one space; its indentation stays.

    Example:
        >>> clean_text("\\u1112\\u1161\\u11ab  국\\r\\n\\n\\n\\n어\\x00 ")
        '한 국\\n\\n어'
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    if _ANY_INVISIBLE.search(text):
        text = text.translate(_INVISIBLE)
    text = _SPACES_AT_LINE_END.sub("", _SPACES_IN_LINE.sub(" ", text))
    return _MANY_NEWLINES.sub("\n\n", text).strip()


@dataclass
class CleanSummary:
    """Where every line of the raw objects went."""

    lines: int = 0
    documents: int = 0
    bytes_raw_text: int = 0
    """UTF-8 bytes of the texts that could be read."""
    bytes_clean_text: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    first_rejects: list[str] = field(default_factory=list)

    @property
    def reject_share(self) -> float:
        """Rejected lines per line."""
        return sum(self.rejected.values()) / self.lines if self.lines else 0.0


class _BatchWriter:
    """Appends rows to a Parquet file that appears when it is closed, also when it stays empty."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._rows = schema, list[dict[str, Any]]()
        self._writer = pq.ParquetWriter(path, schema, **DOCUMENT_WRITE_OPTIONS)

    def append(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _BATCH_DOCUMENTS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows.clear()


class _DocumentFiles:
    """Documents in files of bounded length: documents-00000.parquet, documents-00001.parquet, …"""

    def __init__(self, folder: Path, documents_per_file: int) -> None:
        self._folder, self._limit, self._count = folder, documents_per_file, 0
        self._writer: _BatchWriter | None = None

    def append(self, document: dict[str, Any]) -> None:
        if self._count % self._limit == 0 or self._writer is None:
            self.close()
            path = self._folder / f"documents-{self._count // self._limit:05d}.parquet"
            self._writer = _BatchWriter(path, DOCUMENT_SCHEMA)
        self._writer.append(document)
        self._count += 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Cleaner:
    """Sorts the lines of one domain into documents, removed and rejects."""

    def __init__(self, domain: str, folder: Path, config: CorpusConfig) -> None:
        self._domain, self._config = domain, config
        self._documents = _DocumentFiles(folder, config.documents_per_file)
        self._removed = _BatchWriter(folder / "removed.parquet", REMOVED_SCHEMA)
        self._rejects = _BatchWriter(folder / "rejects.parquet", REJECT_SCHEMA)
        self._first_with_text: dict[bytes, str] = {}
        self._place_of_id: dict[str, tuple[str, int]] = {}
        self.summary = CleanSummary()

    def add(self, file: str, number: int, line: bytes | dict[str, Any]) -> None:
        self.summary.lines += 1
        try:
            record = parse_line(line)
            document = _document(record, self._domain, default_id=f"{file}#{number}")
            digest = hashlib.blake2b(document["text"].encode(), digest_size=TEXT_HASH_BYTES).digest()
            if digest not in self._first_with_text:  # else the same line again: a duplicate, not a conflict
                self._claim_id(document["id"], file, number)
        except (ValueError, TypeError) as error:
            self._reject(file, number, str(error), line)
            return
        raw_bytes = len(record["text"].encode())
        self.summary.bytes_raw_text += raw_bytes
        self._keep_or_remove(document, digest, raw_bytes, file, number)

    def close(self) -> CleanSummary:
        for writer in (self._documents, self._removed, self._rejects):
            writer.close()
        return self.summary

    def _claim_id(self, identifier: str, file: str, number: int) -> None:
        first = self._place_of_id.setdefault(identifier, (file, number))
        if first != (file, number):
            raise ValueError(f"repeated id {identifier!r}, first seen in {first[0]}, line {first[1]}")

    def _reject(self, file: str, number: int, reason: str, line: bytes | dict[str, Any]) -> None:
        kind = reason.split(":")[0].split(" at ")[0]
        self.summary.rejected["repeated id" if kind.startswith("repeated id") else kind] += 1
        if len(self.summary.first_rejects) < 10:
            self.summary.first_rejects.append(f"{file}, line {number}: {reason}")
        content = line if isinstance(line, bytes) else orjson.dumps(line, default=str)
        self._rejects.append({"file": file, "line": number, "reason": reason, "content": content})

    def _keep_or_remove(
        self, document: dict[str, Any], digest: bytes, raw_bytes: int, file: str, number: int
    ) -> None:
        text, identifier = document["text"], document["id"]
        reason, survivor = None, None
        if len(text) < self._config.min_characters:
            reason = TOO_SHORT
        else:
            survivor = self._first_with_text.get(digest)
            reason = None if survivor is None else EXACT_DUPLICATE
            self._first_with_text.setdefault(digest, identifier)
        if reason is None:
            self._documents.append(document)
            self.summary.documents += 1
            self.summary.bytes_clean_text += len(text.encode())
            return
        self.summary.removed[reason] += 1
        self._removed.append(
            {
                "id": identifier,
                "reason": reason,
                "survivor_id": survivor,
                "bytes": raw_bytes,
                "file": file,
                "line": number,
                "excerpt": text[:EXCERPT_CHARACTERS],
            }
        )


def clean_domain(
    root: UPath,
    domain: str,
    objects: Iterable[RawObject],
    folder: Path,
    config: CorpusConfig,
    *,
    log: Log = silent,
) -> CleanSummary:
    """Clean one domain's raw objects into a folder.

    Args:
        root: where the objects lie.
        domain: the name the documents carry from here on.
        objects: as `raw_corpus` saw them; an object that changed since is refused.
        folder: gets `documents-*.parquet` (`DOCUMENT_SCHEMA`), `removed.parquet` and `rejects.parquet`.
        config: limits.
        log: progress.

    Returns:
        Where every line went: lines = documents + removed + rejected.

    Raises:
        RawObjectError: an object is damaged, or changed since it was seen.
    """
    objects = list(objects)
    cleaner = _Cleaner(domain, folder, config)
    with Progress(log, "lines", total=sum(item.lines for item in objects)) as progress:
        for file, number, line in _all_lines(root, objects):
            cleaner.add(file, number, line)
            progress.advance()
    return cleaner.close()


def _all_lines(root: UPath, objects: list[RawObject]) -> Iterator[tuple[str, int, bytes | dict[str, Any]]]:
    for raw_object in objects:
        for number, line in read_lines(root, raw_object):
            yield raw_object.name, number, line


def _document(record: dict[str, Any], domain: str, *, default_id: str) -> dict[str, Any]:
    meta = record.get("meta")
    document: dict[str, Any] = {
        "id": str(record["id"]) if record.get("id") not in (None, "") else default_id,
        "text": clean_text(record["text"]),
        "domain": domain,
        "meta": None if meta is None else orjson.dumps(meta, default=str).decode(),
    }
    for name in ("source", "lang", "license"):
        document[name] = None if record.get(name) is None else str(record[name])
    return document

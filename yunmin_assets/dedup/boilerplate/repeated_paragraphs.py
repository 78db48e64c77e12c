"""Paragraphs that repeat over many documents of a domain, and the headers and footers among them.

Run it on documents that survived deduplication: before, every paragraph of a duplicated document repeats.
Paragraphs are compared as near-duplicate detection compares texts (case, punctuation and spacing do not
count, digits do) and counted by a 64-bit hash, once per document. CCNet removes repeated paragraphs by their
hashes (Wenzek et al., 2020); here a paragraph must repeat over a share of the documents, and by default only
headers and footers are boilerplate: what usually stands at an edge, and only where it does.

Price: 4 to 8 ms of one core per MB of Korean text for each reading of the documents: one to count, one to look
at what repeats (if anything does), one to remove it (if configured). Memory: the caller's limit for counting,
one batch, and what is kept per repeated paragraph, of which there are at most (paragraphs per document) /
`min_share`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.dedup.boilerplate.config import BoilerplateConfig
from yunmin_assets.dedup.boilerplate.hash_counts import HashCounts
from yunmin_assets.dedup.boilerplate.paragraphs import Paragraphs, hash_lines, split_paragraphs
from yunmin_assets.dedup.boilerplate.report import BoilerplateReport, RepeatedParagraph
from yunmin_assets.dedup.kernels import announce_first_use
from yunmin_assets.dedup.normalize import Punctuation
from yunmin_assets.progress import Log, Progress, silent

BOILERPLATE_ONLY = "boilerplate only"
"""The reason in a removal log for a document of which too little is left."""
PARAGRAPHS_SHOWN = 20

Batches = Callable[[], Iterable[pa.Table | pa.RecordBatch]]
"""Gives all documents anew each time it is called, in the same order; how they are cut does not matter."""


@dataclass(frozen=True)
class Boilerplate:
    """The repeated paragraphs of one domain and which of them are boilerplate.

    Attributes:
        config, punctuation: what they were found with.
        hashes: uint64[k], ascending; see `paragraphs`.
        is_boilerplate: bool[k].
        report: what there is to say about them.
    """

    config: BoilerplateConfig
    punctuation: Punctuation
    hashes: npt.NDArray[np.uint64]
    is_boilerplate: npt.NDArray[np.bool_]
    report: BoilerplateReport


@dataclass(frozen=True)
class Removal:
    """Documents without their boilerplate.

    Attributes:
        documents: the same rows and columns, with shorter texts.
        too_little_left: bool[rows], documents to be removed with the reason `BOILERPLATE_ONLY`.
        documents_changed: documents whose text is shorter, those with too little left included.
        paragraphs_removed: occurrences, not different paragraphs.
        bytes_removed: UTF-8 bytes of text, line ends and surplus empty lines included.
    """

    documents: pa.Table
    too_little_left: npt.NDArray[np.bool_]
    documents_changed: int
    paragraphs_removed: int
    bytes_removed: int


def find_boilerplate(
    batches: Batches,
    config: BoilerplateConfig,
    *,
    punctuation: Punctuation,
    workspace: Path,
    memory_bytes: int,
    log: Log = silent,
) -> Boilerplate:
    """Count in how many documents each paragraph stands, and look at those that stand in enough.

    Args:
        batches: the documents of one domain, with a column `text`; called twice if anything repeats.
        config: what counts as boilerplate.
        punctuation: what the comparison ignores.
        workspace: folder for scratch files, made if need be; they are gone when this returns.
        memory_bytes: limit of what counting holds, beside one batch.
        log: progress.

    Raises:
        TypeError: a text is no string.
        ValueError: a text is null or not valid UTF-8, `memory_bytes` is not positive, or the second call of
            `batches` gives another number of documents than the first.
    """
    announce_first_use(hash_lines, log)
    workspace.mkdir(parents=True, exist_ok=True)
    documents = text_bytes = 0
    with (
        TemporaryDirectory(prefix="paragraphs-", suffix=".tmp", dir=workspace) as scratch,
        Progress(log, "documents searched for repeated paragraphs") as seen,
    ):
        counter = HashCounts(Path(scratch), memory_bytes)
        for batch in batches():
            paragraphs = split_paragraphs(batch["text"], config.min_characters, punctuation)
            counter.add(paragraphs.once_per_document(paragraphs.are_hashed))
            documents += batch.num_rows
            text_bytes += _text_bytes(batch["text"])
            seen.advance(batch.num_rows)
        threshold = max(config.min_documents, math.ceil(config.min_share * documents))
        hashes, counts = counter.at_least(threshold)
    repetitions = _Repetitions(config, hashes, counts)
    if hashes.size:
        _look_again(batches, repetitions, punctuation, documents, log)
    report = repetitions.report(documents, text_bytes, threshold)
    return Boilerplate(config, punctuation, hashes, repetitions.are_boilerplate(), report)


def remove_boilerplate(documents: pa.Table, boilerplate: Boilerplate, *, min_characters_left: int) -> Removal:
    """Take boilerplate out of texts, where the configured position lets it be.

    At most one empty line stays where paragraphs were taken out, and the text is stripped. A text that
    nothing is taken out of comes through byte for byte.

    Args:
        documents: some of the domain's, with a column `text`; other columns are carried along.
        boilerplate: of the whole domain.
        min_characters_left: a changed text with fewer characters, or none, has too little left.

    Raises:
        TypeError: a text is no string.
        ValueError: a text is null or not valid UTF-8.
    """
    config = boilerplate.config
    paragraphs = split_paragraphs(documents["text"], config.min_characters, boilerplate.punctuation)
    removed = _removable_lines(paragraphs, boilerplate)
    changed = np.zeros(documents.num_rows, np.bool_)
    changed[paragraphs.documents[removed]] = True
    if not changed.any():
        return Removal(documents, changed, 0, 0, 0)
    column = documents.schema.get_field_index("text")
    field = documents.schema.field(column)
    shorter = _join_kept_lines(paragraphs, changed, removed).cast(field.type)
    texts = pc.replace_with_mask(documents["text"].combine_chunks(), pa.array(changed), shorter)
    is_little = pc.utf8_length(texts).to_numpy() < max(min_characters_left, 1)
    return Removal(
        documents=documents.set_column(column, field, texts),
        too_little_left=changed & is_little,
        documents_changed=int(changed.sum()),
        paragraphs_removed=int(removed.sum()),
        bytes_removed=_text_bytes(documents["text"]) - _text_bytes(texts),
    )


class _Repetitions:
    """What the documents say about k repeated paragraphs.

    Args:
        config: what counts as boilerplate.
        hashes: uint64[k], ascending.
        counts: int64[k], documents with each.
    """

    def __init__(
        self, config: BoilerplateConfig, hashes: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]
    ) -> None:
        self.config = config
        self._hashes, self._counts = hashes, counts
        self._at_edge = np.zeros(hashes.size, np.int64)  # documents
        self._bytes, self._bytes_at_edge = np.zeros(hashes.size, np.int64), np.zeros(hashes.size, np.int64)
        self._documents_with_any = 0
        self._first_texts: dict[int, str] = {}

    def add(self, paragraphs: Paragraphs) -> None:
        """Look at some more documents."""
        indices = _indices(paragraphs, self._hashes)
        repeated = indices >= 0
        at_edge = paragraphs.at_edges(repeated)
        hashes_at_edge = paragraphs.once_per_document(at_edge)
        np.add.at(self._at_edge, np.searchsorted(self._hashes, hashes_at_edge), 1)
        np.add.at(self._bytes, indices[repeated], paragraphs.line_bytes[repeated])
        np.add.at(self._bytes_at_edge, indices[at_edge], paragraphs.line_bytes[at_edge])
        self._documents_with_any += np.unique(paragraphs.documents[repeated]).size
        self._remember_first_texts(indices, np.flatnonzero(repeated), paragraphs.lines)

    def _remember_first_texts(
        self, indices: npt.NDArray[np.int64], places: npt.NDArray[np.int64], lines: pa.LargeStringArray
    ) -> None:
        present, first = np.unique(indices[places], return_index=True)
        for index, place in zip(present.tolist(), places[first].tolist(), strict=True):
            if index not in self._first_texts:
                self._first_texts[index] = lines[place].as_py()

    def are_boilerplate(self) -> npt.NDArray[np.bool_]:
        """bool[k]: all of them, or only headers and footers."""
        if self.config.position == "anywhere":
            return np.ones(self._hashes.size, np.bool_)
        return self._at_edge >= self.config.min_edge_share * self._counts

    def report(self, documents: int, text_bytes: int, threshold: int) -> BoilerplateReport:
        """What was seen, for a domain of so many documents and bytes."""
        is_boilerplate = self.are_boilerplate()
        removable_bytes = self._bytes if self.config.position == "anywhere" else self._bytes_at_edge
        entries = [
            RepeatedParagraph(
                text=text,
                is_boilerplate=bool(is_boilerplate[index]),
                documents=int(self._counts[index]),
                documents_at_edge=int(self._at_edge[index]),
                text_bytes=int(self._bytes[index]),
            )
            for index, text in self._first_texts.items()
        ]
        entries.sort(key=lambda entry: (not entry.is_boilerplate, -entry.documents, entry.text))
        return BoilerplateReport(
            documents=documents,
            text_bytes=text_bytes,
            threshold=threshold,
            repeated_paragraphs=self._hashes.size,
            repeated_bytes=int(self._bytes.sum()),
            documents_with_repeated=self._documents_with_any,
            boilerplate_paragraphs=int(is_boilerplate.sum()),
            boilerplate_bytes=int(removable_bytes[is_boilerplate].sum()),
            shown=tuple(entries[:PARAGRAPHS_SHOWN]),
        )


def _look_again(
    batches: Batches, repetitions: _Repetitions, punctuation: Punctuation, documents: int, log: Log
) -> None:
    min_characters = repetitions.config.min_characters
    with Progress(log, "documents looked at again", documents) as seen:
        for batch in batches():
            repetitions.add(split_paragraphs(batch["text"], min_characters, punctuation))
            seen.advance(batch.num_rows)
    if seen.done != documents:
        raise ValueError(
            f"`batches` gave {documents:,} documents when called first and {seen.done:,} when called again: "
            "it must give the same ones each time"
        )


def _indices(paragraphs: Paragraphs, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """int64[lines], the place of each line's hash among ascending hashes; −1 if it is not there."""
    if not hashes.size:
        return np.full(paragraphs.hashes.size, -1)
    indices = np.searchsorted(hashes, paragraphs.hashes)
    indices[indices == hashes.size] = 0
    return np.where(hashes[indices] == paragraphs.hashes, indices, -1)


def _removable_lines(paragraphs: Paragraphs, boilerplate: Boilerplate) -> npt.NDArray[np.bool_]:
    """bool[lines], boilerplate where the configured position lets it be removed."""
    indices = _indices(paragraphs, boilerplate.hashes)
    repeated = indices >= 0
    removable = repeated if boilerplate.config.position == "anywhere" else paragraphs.at_edges(repeated)
    removable[removable] = boilerplate.is_boilerplate[indices[removable]]
    return removable


def _join_kept_lines(
    paragraphs: Paragraphs, changed: npt.NDArray[np.bool_], removed: npt.NDArray[np.bool_]
) -> pa.LargeStringArray:
    """The changed texts without the removed lines, without repeated empty lines, stripped."""
    kept = np.flatnonzero(changed[paragraphs.documents] & ~removed)
    documents, is_empty = paragraphs.documents[kept], paragraphs.line_bytes[kept] == 0
    repeats = is_empty[1:] & is_empty[:-1] & (documents[1:] == documents[:-1])
    kept = np.delete(kept, np.flatnonzero(repeats) + 1)
    lines_per_text = np.bincount(paragraphs.documents[kept], minlength=changed.size)[changed]
    starts = np.concatenate([[0], np.cumsum(lines_per_text)]).astype(np.int32)
    lines = pa.ListArray.from_arrays(starts, paragraphs.lines.take(pa.array(kept)))
    return pc.utf8_trim_whitespace(pc.binary_join(lines, pa.scalar("\n", pa.large_string())))


def _text_bytes(texts: pa.Array | pa.ChunkedArray) -> int:
    return pc.sum(pc.binary_length(texts).cast(pa.int64())).as_py() or 0

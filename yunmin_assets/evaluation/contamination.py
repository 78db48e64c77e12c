"""Contamination: how much of an evaluation set stands in the documents that a model was trained on.

Evaluation items and training documents are compared by their character n-grams in the normalisation of the
deduplication (`dedup.normalize`: NFC, lower case, no ASCII punctuation), but without white space: Korean is written
with more or fewer blanks as one likes, and every blank would hide as many n-grams as an n-gram has characters. An item
counts as contaminated if any of its n-grams occurs in any document. Eleven characters are about four words, so that
phrases which belong to nobody ("다음 중 옳지 않은 것은") count as well: read the share of an item's n-grams that were
found, and the excerpt, before calling a benchmark leaked.

The result is exact: n-grams are found by hash and compared as text. One pass over the documents serves all
evaluation sets.

Memory: about 65 bytes per character of the evaluation side and one row group of documents, however many there are.
Price: linear; a CPU-second per 120 MB of Korean text, reading its Parquet included, and 0.3 per million characters of
the evaluation side (measured on a busy machine: the development sets of KoBEST against 90 and 270 MB).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from yunmin_assets.dedup.kernels import announce_first_use
from yunmin_assets.dedup.normalize import (
    CODE_POINT_MASK,
    DROPPED,
    SPACE,
    normalization_table,
    normalize_text,
)
from yunmin_assets.dedup.text_blocks import Statuses, TextBlock, run_blocks
from yunmin_assets.documents import document_batches
from yunmin_assets.evaluation.ngram_index import NOWHERE, NgramIndex, find_ngrams, index_ngrams
from yunmin_assets.progress import Log, Progress, silent

DEFAULT_NGRAM = 13
"""Some five words of Korean without the blanks, as in deduplication. In a corpus that never saw KoBEST, 11 find three
times as many of its phrases, common ones, but can judge a third more of the short items (SentiNeg)."""


@dataclass(frozen=True)
class ContaminatedItem:
    """An evaluation item of which something stands in the training documents.

    Attributes:
        item: its id.
        share: of its n-grams, repeats included, that occur in some document; above 0.
        domain, document: of the documents that were the first with some of these n-grams, the one with most of them.
        excerpt: the longest stretch of the item, normalised but with its blanks, all of whose n-grams that document
            was the first with.
    """

    item: str
    share: float
    domain: str
    document: str
    excerpt: str


@dataclass(frozen=True)
class Contamination:
    """What of an evaluation set stands in the training documents.

    Attributes:
        ngram: characters in an n-gram.
        items: items compared, those too short left out.
        too_short: ids of items with fewer characters than an n-gram, white space not counted.
        documents: training documents read.
        contaminated: in the order of the items.
    """

    ngram: int
    items: int
    too_short: tuple[str, ...]
    documents: int
    contaminated: tuple[ContaminatedItem, ...]

    def share(self, at_least: float = 0.0) -> float | None:
        """The share of items of which more than nothing, and at least this share of n-grams, was found.

        None if there was no item to compare.
        """
        if not self.items:
            return None
        return sum(each.share >= at_least for each in self.contaminated) / self.items


def check_contamination(
    evaluation: Mapping[str, Iterable[tuple[str, str]]],
    training_files: Sequence[Path],
    *,
    ngram: int = DEFAULT_NGRAM,
    log: Log = silent,
) -> dict[str, Contamination]:
    """Look for the n-grams of evaluation sets in training documents.

    Args:
        evaluation: by name, the (item id, text) pairs of each set.
        training_files: Parquet files of documents with id, domain and text.
        ngram: characters in an n-gram.
        log: progress.

    Returns:
        By name of the evaluation set. The order of the files decides only which document is the example.

    Raises:
        ValueError: an item's id occurs twice in its set or its text is no Unicode, or a document cannot be used (as of
            `document_batches`).
    """
    items = {name: _unique_items(name, pairs) for name, pairs in evaluation.items()}
    index = index_ngrams([_closed(text) for pairs in items.values() for text in pairs.values()], ngram)
    sources = _find_sources(index, training_files, log)
    result, first = {}, 0
    for name, pairs in items.items():
        result[name] = _judge(index, sources, pairs, first)
        first += len(pairs)
    return result


def _closed(text: str) -> str:
    """What is compared of a text; `_closing_table` says the same of its bytes."""
    return normalize_text(text).replace(" ", "")


@cache
def _closing_table() -> npt.NDArray[np.uint32]:
    """The table of the normalisation, by which white space is dropped too."""
    table = normalization_table()
    is_space = (table & CODE_POINT_MASK) == SPACE
    closing = np.where(is_space, table & ~CODE_POINT_MASK | DROPPED, table)
    closing.setflags(write=False)
    return closing


def _unique_items(name: str, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    items: dict[str, str] = {}
    for item, text in pairs:
        if item in items:
            raise ValueError(f"{name}: item {item!r} occurs twice: make the ids unique")
        if not _is_unicode(text):
            raise ValueError(f"{name}: item {item!r} holds half of a surrogate pair: mend or remove it")
        items[item] = text
    return items


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class _Sources:
    """Where indexed n-grams were found.

    documents: int64[c], for each first place of an n-gram the number of the first document with it, or `NOWHERE`.
    names: by number, domain and id of the documents in it. read: documents read.
    """

    documents: npt.NDArray[np.int64]
    names: dict[int, tuple[str, str]]
    read: int


def _find_sources(index: NgramIndex, training_files: Sequence[Path], log: Log) -> _Sources:
    announce_first_use(find_ngrams, log)
    documents = np.full(index.code_points.size, NOWHERE)
    names: dict[int, tuple[str, str]] = {}
    read = 0
    with Progress(log, "training documents") as progress:
        for path in training_files:
            for batch in document_batches(path, ["id", "domain", "text"]):
                places, found_in = _find_in_batch(index, batch["text"], documents)
                documents[places] = read + batch.num_rows
                np.minimum.at(documents, places, read + found_in)
                for number in np.unique(documents[places]).tolist():
                    row = number - read
                    names[number] = batch["domain"][row].as_py(), batch["id"][row].as_py()
                read += batch.num_rows
                progress.advance(batch.num_rows)
    return _Sources(documents, names, read)


def _find_in_batch(
    index: NgramIndex, texts: pa.Array, documents: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First places of the n-grams that no earlier document had, and the rows of the texts that hold them."""
    table = _closing_table()
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]

    def look(block: TextBlock, accept_any_form: bool) -> Statuses:
        statuses, places, rows = find_ngrams(
            block.data, block.offsets, block.rows, block.positions, table, accept_any_form,
            index.code_points, index.ngram, index.slots, index.bits, documents,
        )  # fmt: skip
        found.append((places, rows))
        return statuses

    run_blocks(pa.chunked_array([texts]), np.arange(len(texts)), look, silent)
    places, rows = zip(*found, strict=True)
    return np.concatenate(places), np.concatenate(rows)


def _judge(index: NgramIndex, sources: _Sources, items: Mapping[str, str], first: int) -> Contamination:
    """`items` are ids and texts of the indexed texts from number `first` on."""
    too_short, contaminated = [], []
    for number, (name, text) in enumerate(items.items(), start=first):
        documents = sources.documents[index.places(number)]
        if not documents.size:
            too_short.append(name)
        elif (documents != NOWHERE).any():
            contaminated.append(_contaminated_item(name, text, documents, sources, index.ngram))
    return Contamination(
        ngram=index.ngram,
        items=len(items) - len(too_short),
        too_short=tuple(too_short),
        documents=sources.read,
        contaminated=tuple(contaminated),
    )


def _contaminated_item(
    name: str, text: str, documents: npt.NDArray[np.int64], sources: _Sources, ngram: int
) -> ContaminatedItem:
    """`documents` are those that were the first with each n-gram of the text."""
    found = documents[documents != NOWHERE]
    numbers, counts = np.unique(found, return_counts=True)
    example = int(numbers[counts.argmax()])
    domain, document = sources.names[example]
    first, last = _longest_run(documents == example)
    return ContaminatedItem(
        item=name,
        share=found.size / documents.size,
        domain=domain,
        document=document,
        excerpt=_stretch(text, first, last + ngram),
    )


def _stretch(text: str, first: int, end: int) -> str:
    """The compared characters number `first` to `end` - 1 of a text, and the blanks between them."""
    seen = normalize_text(text)
    places = [place for place, character in enumerate(seen) if character != " "]
    return seen[places[first] : places[end - 1] + 1]


def _longest_run(marked: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """First and last place of the longest run of marked ones, the first such; some are marked."""
    changes = np.flatnonzero(np.diff(marked, prepend=False, append=False))
    begins, ends = changes[::2], changes[1::2]
    longest = (ends - begins).argmax()
    return int(begins[longest]), int(ends[longest]) - 1

"""Turn documents into token ids, batch by batch, on all cores.

- The texts of an Arrow batch are encoded by all cores at once (`tokenizers` does so without the GIL), and the
  next batches while the caller works on this one.
- In the order of the documents, and the same ids on any number of cores.
- A document that contains the *spelling* of a special token is encoded as plain characters, so that no text
  can end a document early.

Price: about 100 bytes of memory per token of the batches in flight, each half a megabyte of text, or one
document where that is larger.
"""

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Tokenizer

from yunmin_assets.documents import check_documents

TOKENIZER_FILE = "tokenizer.json"
BATCH_DOCUMENTS = 1024
BATCH_TEXT_BYTES = 512 * 1024
BATCHES_AHEAD = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class TokenizedBatch:
    """Some documents and their token ids."""

    documents: pa.RecordBatch
    tokens: NDArray[np.uint32]
    """[tokens] ids of all documents, one after the other, without end-of-text tokens."""
    lengths: NDArray[np.int32]
    """[documents] tokens of each."""

    def split(self) -> list[NDArray[np.uint32]]:
        """The ids of each document."""
        return np.split(self.tokens, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 of the folder's `tokenizer.json`, as hexadecimal text."""
    return hashlib.sha256((folder / TOKENIZER_FILE).read_bytes()).hexdigest()


def open_encoder(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, set up to encode whole texts and nothing but texts."""
    return _encoder((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=2)
def _encoder(tokenizer_json: str) -> Tokenizer:
    # Opened once: tokenizers 0.23 never gives back the word cache of a tokenizer that has encoded (some 15 MB).
    encoder = Tokenizer.from_str(tokenizer_json)
    encoder.encode_special_tokens = True  # the spelling of a special token is text like any other
    encoder.no_truncation()  # a tokenizer that was taken over may cut or pad
    encoder.no_padding()
    return encoder


def tokenize_documents(
    documents: pa.Table | Iterable[pa.RecordBatch], tokenizer_dir: Path
) -> Iterator[NDArray[np.uint32]]:
    """Yield the token ids of each document's `text`, in order, without an end-of-text token.

    Args:
        documents: a table or a stream of record batches with a string column `text`; an `id` is named in errors.
        tokenizer_dir: folder written by `train_tokenizer`.

    Yields:
        uint32 [tokens]; empty for an empty text.

    Raises:
        ValueError: a batch has no column `text`, or a text is null or not UTF-8; names the document.
    """
    batches = documents.to_batches(BATCH_DOCUMENTS) if isinstance(documents, pa.Table) else documents
    for batch in tokenize_batches(_checked(batches), tokenizer_dir):
        yield from batch.split()


def tokenize_batches(batches: Iterable[pa.RecordBatch], tokenizer_dir: Path) -> Iterator[TokenizedBatch]:
    """Tokenise a stream of documents; the batches that come out are cut anew by the bytes of their texts.

    Args:
        batches: record batches as `documents.document_batches` yields them, with a column `text` that was checked.
        tokenizer_dir: folder written by `train_tokenizer`.
    """
    encoder = open_encoder(tokenizer_dir)

    def encode(batch: pa.RecordBatch) -> TokenizedBatch:
        encodings = encoder.encode_batch_fast(batch["text"].to_pylist(), add_special_tokens=False)
        documents = [np.asarray(encoding.ids, dtype=np.uint32) for encoding in encodings]
        lengths = np.array([len(ids) for ids in documents], np.int32)
        return TokenizedBatch(batch, np.concatenate(documents), lengths)

    yield from _ahead(encode, _small_batches(batches))


def _ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map` in threads that are some items ahead of the caller."""
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(BATCHES_AHEAD) as pool:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > BATCHES_AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _small_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut batches where the next text would bring them above `BATCH_TEXT_BYTES`."""
    for batch in batches:
        ends = np.cumsum(pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False), dtype=np.int64)
        start = 0
        while start < batch.num_rows:
            full = (ends[start - 1] if start else 0) + BATCH_TEXT_BYTES
            stop = max(start + 1, int(np.searchsorted(ends, full, side="right")))
            stop = min(stop, start + BATCH_DOCUMENTS)
            yield batch.slice(start, stop - start)
            start = stop


def _checked(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    done = 0
    for batch in batches:
        if "text" not in batch.schema.names:
            raise ValueError(f"documents have no column 'text', only {batch.schema.names}")
        check_documents(batch, first_row=done)
        yield batch
        done += batch.num_rows

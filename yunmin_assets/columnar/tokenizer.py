"""Byte-level BPE tokenizer: train one or take one over, then turn documents into token ids.

- Byte-level BPE (Radford et al. 2019, GPT-2): the alphabet is the 256 bytes, so no text is unknown.
- Lossless: there is no normaliser, so `decode(encode(text)) == text` for every text, decomposed Korean (NFD)
  included. Bringing text to NFC is the work of `clean_corpus`, where it is counted.
- Deterministic: equal texts in equal order give the same `tokenizer.json`, on any number of threads.
- The end-of-text token has id 0 and pads as well. A document that contains its *spelling* is encoded as plain
  characters, so that no text can end a document early.

Price: training keeps every distinct word of the texts in memory.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from yunmin_assets.columnar.config import TokenizerConfig
from yunmin_assets.files import new_folder
from yunmin_assets.progress import Log, silent, track

TOKENIZER_FILE = "tokenizer.json"
ENCODE_BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class TokenizerSummary:
    """What a tokenizer folder holds."""

    vocab_size: int
    """Number of ids, the end-of-text token included. Smaller than asked when the texts have too few pairs."""
    eos_id: int
    end_of_text: str
    trained_on_documents: int
    """0 for a tokenizer that was taken over."""
    sha256: str
    """`tokenizer_hash` of the folder."""


def train_tokenizer(
    texts: Iterable[str], config: TokenizerConfig, out_dir: Path, log: Log = silent
) -> TokenizerSummary:
    """Train a byte-level BPE on `texts`, or take over the tokenizer at `config.path`, and save it.

    Args:
        texts: training texts, read once; not touched when `config.path` is given.
        out_dir: folder to create; `transformers.AutoTokenizer.from_pretrained(out_dir)` opens it.

    Raises:
        ValueError: no text to train on; the tokenizer to take over has no end-of-text token or no
            `tokenizer.json`.
        FileExistsError: `out_dir` already holds something.
    """
    with new_folder(out_dir) as part:
        if config.path is not None:
            documents, tokenizer = 0, _existing_tokenizer(config.path)
        else:
            documents, tokenizer = _trained_tokenizer(texts, config, log)
        tokenizer.save_pretrained(part)
    return TokenizerSummary(
        vocab_size=len(tokenizer),
        eos_id=tokenizer.eos_token_id,
        end_of_text=tokenizer.eos_token,
        trained_on_documents=documents,
        sha256=tokenizer_hash(out_dir),
    )


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 of the folder's `tokenizer.json`, as hexadecimal text."""
    return hashlib.sha256((folder / TOKENIZER_FILE).read_bytes()).hexdigest()


def tokenize_documents(
    documents: pa.Table | Iterable[pa.RecordBatch], tokenizer_dir: Path
) -> Iterator[NDArray[np.uint32]]:
    """Yield the token ids of each document's `text`, in order, without an end-of-text token.

    Args:
        documents: a table or a stream of record batches with a string column `text` without nulls.
        tokenizer_dir: folder written by `train_tokenizer`.

    Yields:
        uint32 [tokens]; empty for an empty text.

    Raises:
        ValueError: a batch has no column `text`, or a text is null.
    """
    encoder = Tokenizer.from_file(str(tokenizer_dir / TOKENIZER_FILE))
    encoder.encode_special_tokens = True  # the spelling of a special token is text like any other
    encoder.no_truncation()  # a tokenizer that was taken over may cut or pad
    encoder.no_padding()
    batches = documents.to_batches(ENCODE_BATCH_DOCUMENTS) if isinstance(documents, pa.Table) else documents
    done = 0
    for batch in batches:
        for start in range(0, batch.num_rows, ENCODE_BATCH_DOCUMENTS):
            texts = _texts(batch.slice(start, ENCODE_BATCH_DOCUMENTS), done)
            for encoding in encoder.encode_batch_fast(texts, add_special_tokens=False):
                yield np.asarray(encoding.ids, dtype=np.uint32)
            done += len(texts)


def _texts(batch: pa.RecordBatch, first_document: int) -> list[str]:
    if "text" not in batch.schema.names:
        raise ValueError(f"documents have no column 'text', only {batch.schema.names}")
    texts = batch.column("text").to_pylist()
    if None in texts:
        raise ValueError(f"document {first_document + texts.index(None)} has no text (null): remove it first")
    return texts


def _trained_tokenizer(
    texts: Iterable[str], config: TokenizerConfig, log: Log
) -> tuple[int, PreTrainedTokenizerBase]:
    documents = 0

    def counted() -> Iterator[str]:
        nonlocal documents
        for text in track(texts, log, "documents"):
            documents += 1
            yield text

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[config.end_of_text],  # special tokens come first: id 0
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(counted(), trainer)
    if documents == 0:
        raise ValueError("no text to train a tokenizer on: the training split is empty")
    return documents, PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=config.end_of_text,
        pad_token=config.end_of_text,
        clean_up_tokenization_spaces=False,  # it would drop spaces before punctuation
    )


def _existing_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    if not (path / TOKENIZER_FILE).is_file():
        raise ValueError(
            f"{path}: no {TOKENIZER_FILE} in this folder; save the model's *fast* tokenizer there"
        )
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{path}: this tokenizer has no end-of-text token (eos_token), so documents cannot be joined"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

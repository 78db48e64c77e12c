"""Texts as token ids for scoring, in bounded memory however long a document is.

A tokenizer takes some 100 bytes for every token of the texts it encodes at once. So texts go to it a few at a
time, and a very long one in pieces cut before a space: a byte-level BPE encodes them as it would the whole,
others may differ in a token at a cut.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

PIECE_CHARACTERS = 1 << 18
CALL_CHARACTERS = 1 << 18
CALL_TEXTS = 1024


def encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[NDArray[np.int32]]:
    """Yield for every text the end-of-text id, which is the context of its first token, then its tokens."""
    start = np.array([tokenizer.eos_token_id], np.int32)
    waiting: list[str] = []
    ends: list[bool] = []  # whether a text ends with the piece
    characters, so_far = 0, [start]

    def whole_texts() -> Iterator[NDArray[np.int32]]:
        # The spelling of a special token is text like any other, as when documents are packed for training;
        # and a document beyond the model's context needs no warning (verbose), it is cut into windows.
        encoded = tokenizer(waiting, add_special_tokens=False, split_special_tokens=True, verbose=False)
        for tokens, is_end in zip(encoded["input_ids"], ends, strict=True):
            so_far.append(np.array(tokens, np.int32))
            if is_end:
                yield np.concatenate(so_far)
                so_far[:] = [start]

    for text in texts:
        pieces = list(split_text(text))
        for number, piece in enumerate(pieces, start=1):
            waiting.append(piece)
            ends.append(number == len(pieces))
            characters += len(piece)
            if characters >= CALL_CHARACTERS or len(waiting) >= CALL_TEXTS:
                yield from whole_texts()
                waiting, ends, characters = [], [], 0
    if waiting:
        yield from whole_texts()


def split_text(text: str, characters: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Pieces of at most so many characters which make up the text, cut before a space where there is one."""
    start = 0
    while len(text) - start > characters:
        space = text.rfind(" ", start + 1, start + characters)
        end = space if space > 0 else start + characters
        yield text[start:end]
        start = end
    yield text[start:]

"""Perplexity of documents under a causal language model.

- Each document is scored alone, never packed with others: a neighbour's state would leak into its score.
- It starts with the end-of-text token as context, so its first token is scored too.
- Documents are sorted by length and padded on the right, which a causal model cannot see, so no mask is
  needed; a batch holds at most `token_budget` positions.
- A document longer than `max_length` is scored in windows that overlap by half: every token counts once, and
  each but those of the first window has at least `max_length`/2 tokens of context.

The score equals one-by-one scoring within 1e-5 nats per token. The price: all token ids stay in memory
(4 bytes each), and long documents cost twice their tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from yunmin_assets.language_model.architecture import load_model
from yunmin_assets.language_model.tokenizer import load_tokenizer, vocabulary_size
from yunmin_assets.progress import Log, Progress, silent

SCORE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("nll", pa.float64(), nullable=False),
        pa.field("perplexity", pa.float64()),
        pa.field("bits_per_byte", pa.float64()),
    ]
)

DOCUMENTS_PER_TOKENIZER_CALL = 1024


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a document that goes through the model at once; its first `context` targets are not counted."""

    document: int
    begin: int
    length: int
    context: int


def score_documents(
    documents: pa.Table,
    model_dir: Path,
    token_budget: int = 4096,
    *,
    max_length: int = 1024,
    log: Log = silent,
) -> pa.Table:
    """Score every document by the model in a folder.

    Args:
        documents: Columns `id` and `text`.
        model_dir: A Hugging Face folder that holds a causal LM and its tokenizer.
        token_budget: Positions, padding included, in one batch.
        max_length: Tokens the model sees at once; not more than `token_budget`.
        log: Receives progress lines.

    Returns:
        One row per document in input order, of `SCORE_SCHEMA`: `nll` is the sum over tokens in nats,
        `perplexity` exp(nll / n_tokens), `bits_per_byte` nll / (ln 2 · n_bytes) over UTF-8 bytes. A document
        without tokens has nll 0 and null perplexity and bits_per_byte.

    Raises:
        ValueError: `token_budget` is below `max_length`, or the tokenizer does not fit the model.
        FloatingPointError: A document's score is not finite; names it.
    """
    if token_budget < max_length:
        raise ValueError(
            f"token_budget {token_budget} holds no window of {max_length} tokens: raise one, lower other"
        )
    model, tokenizer = load_model(model_dir), load_tokenizer(model_dir)
    if vocabulary_size(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{model_dir}: the tokenizer has {vocabulary_size(tokenizer)} tokens, the model "
            f"{model.config.vocab_size}"
        )
    ids = documents.column("id").to_pylist()
    sequences = _tokenize(documents.column("text"), tokenizer)
    nll = _sum_of_losses(model, sequences, token_budget, max_length, log)
    for document in np.flatnonzero(~np.isfinite(nll))[:1]:
        raise FloatingPointError(
            f"document {ids[document]!r} scores {nll[document]}: the model in {model_dir} is broken"
        )
    n_tokens = np.array([len(sequence) - 1 for sequence in sequences], dtype=np.int64)
    n_bytes = np.array([len(text.as_py().encode()) for text in documents.column("text")], dtype=np.int64)
    return _score_table(ids, n_tokens, n_bytes, nll)


def _score_table(ids: list[str], n_tokens: np.ndarray, n_bytes: np.ndarray, nll: np.ndarray) -> pa.Table:
    empty = n_tokens == 0
    divisor_tokens, divisor_bytes = np.where(empty, 1, n_tokens), np.where(empty, 1, n_bytes)
    columns = [
        pa.array(ids, pa.string()),
        pa.array(n_tokens),
        pa.array(n_bytes),
        pa.array(nll),
        pa.array(np.exp(nll / divisor_tokens), mask=empty),
        pa.array(nll / math.log(2) / divisor_bytes, mask=empty),
    ]
    return pa.Table.from_arrays(columns, schema=SCORE_SCHEMA)


def _tokenize(texts: pa.ChunkedArray, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """One int32 array per document: the end-of-text id, then its tokens."""
    sequences = []
    for first in range(0, len(texts), DOCUMENTS_PER_TOKENIZER_CALL):
        some = texts.slice(first, DOCUMENTS_PER_TOKENIZER_CALL).to_pylist()
        # The spelling of a special token is text like any other, as when documents are packed for training;
        # and a document beyond the model's context needs no warning (verbose), it is cut into windows.
        encoded = tokenizer(some, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        sequences += [np.array([tokenizer.eos_token_id, *tokens], dtype=np.int32) for tokens in encoded]
    return sequences


def document_windows(document: int, targets: int, max_length: int) -> Iterator[Window]:
    """Cut a document of `targets` predictable tokens into windows that count each of them once."""
    stride = max(max_length // 2, 1)
    counted = 0
    while counted < targets:
        begin = 0 if counted == 0 else counted - (max_length - stride)
        length = min(max_length, targets - begin)
        yield Window(document, begin, length, counted - begin)
        counted = begin + length


def _batches_of_windows(windows: Sequence[Window], token_budget: int) -> Iterator[list[Window]]:
    """Longest first, so that the batch that needs most memory comes first; ties keep their order."""
    ordered = sorted(windows, key=lambda window: -window.length)
    first = 0
    while first < len(ordered):
        rows = max(token_budget // ordered[first].length, 1)
        yield ordered[first : first + rows]
        first += rows


@torch.inference_mode()
def _sum_of_losses(
    model: PreTrainedModel, sequences: list[np.ndarray], token_budget: int, max_length: int, log: Log
) -> np.ndarray:
    """Negative log-likelihood of each document in nats, float64."""
    windows = [
        window
        for document, sequence in enumerate(sequences)
        for window in document_windows(document, len(sequence) - 1, max_length)
    ]
    nll = np.zeros(len(sequences))
    with Progress(log, "windows", total=len(windows)) as progress:
        for batch in _batches_of_windows(windows, token_budget):
            for window, loss in zip(batch, _window_losses(model, sequences, batch), strict=True):
                nll[window.document] += loss
            progress.advance(len(batch))
    return nll


def _window_losses(model: PreTrainedModel, sequences: list[np.ndarray], batch: list[Window]) -> list[float]:
    longest = batch[0].length
    tokens = np.zeros((len(batch), longest + 1), dtype=np.int64)
    counted = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, window in enumerate(batch):
        tokens[row, : window.length + 1] = sequences[window.document][
            window.begin : window.begin + window.length + 1
        ]
        counted[row, window.context : window.length] = True
    device_tokens = torch.from_numpy(tokens).to(model.device)
    logits = model(input_ids=device_tokens[:, :-1], use_cache=False).logits.float()
    losses = F.cross_entropy(logits.flatten(0, 1), device_tokens[:, 1:].flatten(), reduction="none")
    return (losses.view(len(batch), longest).cpu().double() * counted).sum(dim=1).tolist()

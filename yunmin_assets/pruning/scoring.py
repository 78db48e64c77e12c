"""Perplexity of documents under a causal language model.

- Each document is scored alone, never packed with others: a neighbour's state would leak into its score.
- It starts with the end-of-text token as context, so its first token is scored too.
- Documents are sorted by length and padded on the right, which a causal model cannot see, so no mask is
  needed; a batch holds at most `token_budget` positions.
- A document longer than `max_length` is scored in windows that overlap by half: every token counts once, and
  each but those of the first window has at least `max_length`/2 tokens of context.

The score equals one-by-one scoring within 1e-5 nats per token. The same documents in the same table give the same
bits again on the same kind of processor, with any number of threads; among other documents they are batched
otherwise, and the last bits may differ. The price: long documents cost twice their tokens, and texts and tokens of
the table are in memory (`shards` goes through a file in bounded memory).
"""

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from yunmin_assets.language_model.architecture import load_model
from yunmin_assets.language_model.tokenizer import load_tokenizer, vocabulary_size
from yunmin_assets.progress import Log, silent
from yunmin_assets.pruning.config import ScoringConfig
from yunmin_assets.pruning.encoding import encode
from yunmin_assets.pruning.losses import WindowLosses
from yunmin_assets.pruning.scoring_progress import ScoringProgress
from yunmin_assets.pruning.windows import batches_of, windows_of

SCORE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("n_scored", pa.int64(), nullable=False),
        pa.field("nll", pa.float64(), nullable=False),
        pa.field("perplexity", pa.float64()),
        pa.field("bits_per_byte", pa.float64()),
    ]
)

CONTEXT_KEYS = ("max_position_embeddings", "n_positions")
"""Where the configuration of a transformer says how many positions it knows."""

Advance = Callable[[int, int], None]
"""Called with the documents and tokens just scored."""


def score_documents(
    documents: pa.Table,
    model_dir: Path,
    token_budget: int = 4096,
    *,
    max_length: int = 1024,
    tokens_per_document: int | None = None,
    score_dtype: Literal["float32", "bfloat16"] = "float32",
    log: Log = silent,
) -> pa.Table:
    """Score every document by the model in a folder.

    Args:
        documents: Columns `id` and `text`.
        model_dir: A Hugging Face folder that holds a causal LM and its tokenizer.
        token_budget: Positions, padding included, in one batch.
        max_length: Tokens the model sees at once; not more than `token_budget`.
        tokens_per_document: Score only so many from the beginning of each document.
        score_dtype: What the model computes in, whatever it was saved in.
        log: Receives progress lines.

    Returns:
        One row per document in input order, of `SCORE_SCHEMA`: `n_scored` of `n_tokens` tokens were scored, `nll`
        is the sum over them in nats, `perplexity` exp(nll / n_scored), `bits_per_byte` nll / n_scored · n_tokens /
        (ln 2 · n_bytes) over UTF-8 bytes, which can be compared between tokenizers. A document without tokens has
        nll 0 and null perplexity and bits_per_byte.

    Raises:
        ValueError: `token_budget` is below `max_length`, the model's context is, or the tokenizer does not fit the
            model.
        FloatingPointError: A document's score is not finite; names it.
    """
    config = ScoringConfig(
        token_budget=token_budget,
        max_length=max_length,
        tokens_per_document=tokens_per_document,
        score_dtype=score_dtype,
    )
    with ScoringProgress(log, documents.num_rows) as progress:
        return Scorer(model_dir, config).score(documents, progress.advance)


class Scorer:
    """The model of a folder with its tokenizer, loaded when the first document is scored."""

    def __init__(self, folder: Path, config: ScoringConfig) -> None:
        self.folder, self.config = folder, config

    def score(self, documents: pa.Table, advance: Advance) -> pa.Table:
        """Score a table; see `score_documents`."""
        sequences = list(encode((text.as_py() for text in documents["text"]), self._tokenizer))
        n_tokens = np.array([len(sequence) - 1 for sequence in sequences], np.int64)
        limit = self.config.tokens_per_document
        n_scored = n_tokens if limit is None else np.minimum(n_tokens, limit)
        advance(int(np.count_nonzero(n_tokens == 0)), 0)
        nll = self._sum_of_losses(sequences, n_scored, advance)
        for document in np.flatnonzero(~np.isfinite(nll))[:1]:
            name = documents["id"][int(document)].as_py()
            raise FloatingPointError(
                f"document {name!r} scores {nll[document]}: the model in {self.folder} is broken"
            )
        n_bytes = pc.binary_length(documents["text"]).to_numpy().astype(np.int64)
        return _score_table(documents["id"], n_tokens, n_bytes, n_scored, nll)

    def _sum_of_losses(
        self, sequences: list[NDArray[np.int32]], targets: NDArray[np.int64], advance: Advance
    ) -> NDArray[np.float64]:
        """Negative log-likelihood of each document in nats."""
        nll = np.zeros(len(sequences))
        batches = list(
            batches_of(windows_of(targets.tolist(), self.config.max_length), self.config.token_budget)
        )
        if batches:
            for batch, losses in zip(batches, self._losses.sums(batches, sequences), strict=True):
                np.add.at(nll, [window.document for window in batch], losses)
                advance(sum(window.begin == 0 for window in batch), sum(window.counted for window in batch))
        return nll

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.folder)

    @cached_property
    def _losses(self) -> WindowLosses:
        return WindowLosses(self._model().to(getattr(torch, self.config.score_dtype)))

    def _model(self) -> PreTrainedModel:
        model = load_model(self.folder)
        tokens = vocabulary_size(self._tokenizer)
        if tokens > model.config.vocab_size:
            raise ValueError(
                f"{self.folder}: the tokenizer needs {tokens} embeddings, the model has {model.config.vocab_size}"
            )
        context = _longest_context(model)
        if context is not None and self.config.max_length > context:
            raise ValueError(
                f"the model in {self.folder} sees at most {context} tokens at once: lower pruning.max_length (in the "
                f"evaluation, its max_length) from {self.config.max_length} to {context} or less"
            )
        return model


def _longest_context(model: PreTrainedModel) -> int | None:
    """Positions for which the model was made; None where it has no limit, as Mamba."""
    for name in CONTEXT_KEYS:
        if isinstance(context := getattr(model.config, name, None), int) and context > 0:
            return context
    return None


def _score_table(
    ids: pa.ChunkedArray,
    n_tokens: NDArray[np.int64],
    n_bytes: NDArray[np.int64],
    n_scored: NDArray[np.int64],
    nll: NDArray[np.float64],
) -> pa.Table:
    empty = n_tokens == 0
    per_token = nll / np.where(empty, 1, n_scored)
    tokens_per_byte = np.where(empty, 0, n_tokens) / np.where(empty, 1, n_bytes)
    columns = {
        "id": ids.cast(pa.string()),
        "n_tokens": n_tokens,
        "n_bytes": n_bytes,
        "n_scored": n_scored,
        "nll": nll,
        "perplexity": pa.array(np.exp(per_token), mask=empty),
        "bits_per_byte": pa.array(per_token * tokens_per_byte / math.log(2), mask=empty),
    }
    return pa.table(columns, schema=SCORE_SCHEMA).combine_chunks()

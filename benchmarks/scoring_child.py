"""One way of scoring, once, in a process of its own: `python -m benchmarks.scoring_child`. `scoring` starts it."""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import PreTrainedModel

from benchmarks.measure import measured
from yunmin_assets.language_model import load_model, load_tokenizer
from yunmin_assets.pruning import score_documents
from yunmin_assets.pruning.encoding import encode
from yunmin_assets.pruning.windows import Window, batches_of, windows_of

TOKEN_BUDGET = 4096
RANDOM_BATCH = 16
WARM_UP_DOCUMENTS = 20

TOOLS = {
    "ours": f"sorted batches of {TOKEN_BUDGET:,} tokens, logits of counted tokens only, a few at a time",
    "first-128": "ours, only the first 128 tokens of each document",
    "first-256": "ours, only the first 256 tokens of each document",
    "first-512": "ours, only the first 512 tokens of each document",
    "random-16": f"batches of {RANDOM_BATCH} windows in random order, padded; all logits, F.cross_entropy",
    "one-by-one": "one window at a time; all logits, F.cross_entropy",
}


def main() -> None:
    """Print costs and sizes as JSON, and save the losses per token."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("max_length", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    documents = pq.read_table(arguments.folder / "documents.parquet")
    model_dir = arguments.folder / "model"
    score(arguments.tool, documents.slice(0, WARM_UP_DOCUMENTS), model_dir, arguments.max_length)
    (losses, tokens, padding), cost = measured(
        lambda: score(arguments.tool, documents, model_dir, arguments.max_length)
    )
    np.save(arguments.folder / f"{arguments.tool}.npy", losses)
    sizes = {"documents": documents.num_rows, "tokens": tokens, "padding": padding}
    print(json.dumps({**sizes, **asdict(cost)}))


def score(
    tool: str, documents: pa.Table, model_dir: Path, max_length: int
) -> tuple[NDArray[np.float64], int, float]:
    """Loss per scored token of each document with a token, tokens of all documents, positions per window token."""
    if tool in ("random-16", "one-by-one"):
        return _usual(documents, model_dir, max_length, RANDOM_BATCH if tool == "random-16" else 1)
    limit = int(tool.removeprefix("first-")) if tool != "ours" else None
    scores = score_documents(
        documents, model_dir, TOKEN_BUDGET, max_length=max_length, tokens_per_document=limit
    )
    n_scored = scores["n_scored"].to_numpy()
    batches = batches_of(windows_of(n_scored.tolist(), max_length), TOKEN_BUDGET)
    losses = scores["nll"].to_numpy()[n_scored > 0] / n_scored[n_scored > 0]
    return losses, int(scores["n_tokens"].to_numpy().sum()), padding_factor(list(batches))


def padding_factor(batches: Sequence[Sequence[Window]]) -> float:
    """Positions that go through the model for each that belongs to a window."""
    positions = sum(len(batch) * max(window.length for window in batch) for batch in batches)
    return positions / max(sum(window.length for batch in batches for window in batch), 1)


@torch.inference_mode()
def _usual(
    documents: pa.Table, model_dir: Path, max_length: int, rows: int
) -> tuple[NDArray[np.float64], int, float]:
    model, tokenizer = load_model(model_dir), load_tokenizer(model_dir)
    sequences = list(encode((text.as_py() for text in documents["text"]), tokenizer))
    lengths = np.array([len(sequence) - 1 for sequence in sequences])
    batches = list(_random_batches(windows_of(lengths.tolist(), max_length), rows))
    nll = np.zeros(len(sequences))
    for batch in batches:
        for window, loss in zip(batch, _padded_losses(model, sequences, batch), strict=True):
            nll[window.document] += loss
    return nll[lengths > 0] / lengths[lengths > 0], int(lengths.sum()), padding_factor(batches)


def _random_batches(windows: list[Window], rows: int) -> Iterator[list[Window]]:
    random.Random(0).shuffle(windows)
    for first in range(0, len(windows), rows):
        yield windows[first : first + rows]


def _padded_losses(
    model: PreTrainedModel, sequences: Sequence[NDArray[np.int32]], batch: Sequence[Window]
) -> list[float]:
    longest = max(window.length for window in batch)
    tokens, counted = (
        torch.zeros(len(batch), longest + 1, dtype=torch.int64),
        torch.zeros(len(batch), longest),
    )
    for row, window in enumerate(batch):
        own = sequences[window.document][window.begin : window.begin + window.length + 1]
        tokens[row, : len(own)] = torch.from_numpy(own.astype(np.int64))
        counted[row, window.context : window.length] = 1
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (losses.view(len(batch), longest).double() * counted).sum(dim=1).tolist()


if __name__ == "__main__":
    main()

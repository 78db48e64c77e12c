"""`PackedDataset`: a torch data set that trains straight from the pages of packed Parquet shards.

- Every row exactly once per epoch, in an order that is a pure function of (seed, epoch, data set); see
  reading_order.
- Elastic: `batch_size` is the **global** batch, shared out over the ranks. Step k holds the same rows on 1,
  2, 4 or 8 ranks, so a run may go on with another number of ranks.
- Exact resume: `state_dict()` is a handful of numbers, and going on at any position costs one page per row.
- Pages are read when their first row is wanted, so the first batch comes at once.

**Labels are already shifted**: `labels[t]` is the token after `input_ids[t]`. Compute the loss as
`cross_entropy(logits.flatten(0, 1), labels.flatten())`. Do NOT pass these labels to a Hugging Face model's
`labels=`: it shifts them a second time (pass `labels=input_ids` there).

Price: one window of pages in memory, `window_pages` × 64 KB (64 MB by default) over all ranks together.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from yunmin_assets.columnar.packed_store import PackedStore
from yunmin_assets.columnar.reading_order import EpochOrder, ReadingOrder, Window

DEFAULT_LANES = 8


IGNORED_LABEL = -100
"""What `torch.nn.functional.cross_entropy` leaves out by default."""


class PackedBatch(TypedDict):
    """What a step trains on; B rows, L = `seq_len`."""

    input_ids: torch.Tensor
    """int64 [B, L]"""
    labels: torch.Tensor
    """int64 [B, L], **already shifted**: `labels[:, t]` follows `input_ids[:, t]`."""
    doc_start: torch.Tensor
    """bool [B, L], true where a document starts: reset the model's state there."""
    domain: list[str]
    """[B]"""


class PackedDataset(IterableDataset):
    """Iterates over a folder written by `pack_documents`.

    Iterating goes on from the current state. A finished loop leaves the state at the next epoch, so looping
    again gives another order; a loop that was left early, or whose state was loaded, is continued.

    The last batch of an epoch holds what is left, fewer rows than the others. With several ranks, some may
    get a batch of no rows then (shape [0, L]): every rank sees the same number of batches.

    Args:
        path: the folder.
        batch_size: rows of a step over **all** ranks; each rank gets `batch_size / world_size` of them.
        seed: of the reading order; 0 or more.
        rank: this process among the `world_size` that train together.
        shuffle: false reads rows in their stored order (and each rank then reads every page).
        window_pages: pages that are mixed, and held in memory, at a time.
        lanes: the world size may be any divisor of it; part of the order.
        epochs: how many a loop runs; None for an endless loop.

    Raises:
        FileNotFoundError: the manifest or a shard is missing.
        DamagedFileError: a shard is truncated or damaged (a damaged page: when it is read).
        ValueError: no rows, or arguments that do not fit together.

    Example:
        dataset = PackedDataset("packed", batch_size=8)
        for batch in dataset:
            logits = model(batch["input_ids"])
            loss = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    """

    def __init__(
        self,
        path: Path | str,
        batch_size: int = 8,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        window_pages: int = 1024,
        lanes: int = DEFAULT_LANES,
        epochs: int | None = 1,
    ):
        _check_arguments(batch_size, seed, rank, world_size, window_pages, lanes, epochs)
        self._store = PackedStore(Path(path))
        self._order = ReadingOrder(self._store.page_rows, seed, shuffle, window_pages, lanes)
        self._batch_size, self._rank, self._world_size, self._epochs = batch_size, rank, world_size, epochs
        self._epoch = self._samples = 0
        self._window = _WindowRows(self._store)

    def __len__(self) -> int:
        """Batches of a whole loop of `epochs` epochs, the same on every rank.

        Raises:
            TypeError: the loop is endless.
        """
        if self._epochs is None:
            raise TypeError("an endless PackedDataset (epochs=None) has no length")
        return self._epochs * -(-self._store.manifest.rows // self._batch_size)

    def __iter__(self) -> Iterator[PackedBatch]:
        if get_worker_info() is not None:
            raise RuntimeError(
                "every DataLoader worker would deliver the same rows: PackedDataset reads in the training "
                "process, so use DataLoader(dataset, batch_size=None, num_workers=0)"
            )
        end = None if self._epochs is None else (self._epoch // self._epochs + 1) * self._epochs
        while self._epoch != end:
            yield from self._rest_of_epoch()
            self._epoch, self._samples = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where this data set stands, under 1 KB of JSON values, the same on every rank.

        `samples` counts the rows that all ranks together were given in this epoch.
        """
        return {**self._identity(), "epoch": self._epoch, "samples": self._samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where another loader stood, on any number of ranks and with any batch size.

        Raises:
            ValueError: the state belongs to another data set or another order, or is out of range.
        """
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise ValueError(
                    f"cannot resume: {name} is {state.get(name)!r} in the state, but {own!r} in this data set"
                )
        epoch, samples = state["epoch"], state["samples"]
        if epoch < 0 or not 0 <= samples <= self._store.manifest.rows:
            raise ValueError(
                f"state out of range: epoch {epoch}, {samples} of {self._store.manifest.rows} samples"
            )
        self._epoch, self._samples = epoch, samples

    def _identity(self) -> dict[str, Any]:
        """All that the order depends on."""
        return {
            "manifest": self._store.manifest.fingerprint,
            "seed": self._order.seed,
            "shuffle": self._order.shuffle,
            "window_pages": self._order.window_pages,
            "lanes": self._order.lanes,
        }

    def _rest_of_epoch(self) -> Iterator[PackedBatch]:
        order = self._order.epoch(self._epoch)
        rows = self._store.manifest.rows
        self._window.forget()
        while self._samples < rows:
            start, end = self._samples, min(self._samples + self._batch_size, rows)
            batch = self._batch(*self._rows(order, start, end))
            self._samples = end
            yield batch

    def _rows(self, order: EpochOrder, start: int, end: int) -> tuple[NDArray, NDArray[np.int64]]:
        """This rank's share of positions start … end - 1: tokens [rows, L + 1] and row numbers [rows]."""
        pieces = []
        while start < end:
            if not self._window.covers(start):
                self._window.enter(order.window_at(start))
            stop = min(end, self._window.end)
            first = start + (self._rank - start) % self._world_size
            pieces.append(self._window.take(np.arange(first, stop, self._world_size)))
            start = stop
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([tokens for tokens, _ in pieces]), np.concatenate([rows for _, rows in pieces])

    def _batch(self, tokens: NDArray, rows: NDArray[np.int64]) -> PackedBatch:
        doc_start = np.zeros((len(rows), self._store.manifest.seq_len), np.bool_)
        for place, row in enumerate(rows):
            doc_start[place, self._store.document_starts(row)] = True
        # Two copies, not two views of one row: masking labels in place must not change the inputs.
        input_ids, labels = tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)
        _mask_padding(input_ids, labels, doc_start, self._store.manifest.eos_id)
        return {
            "input_ids": torch.from_numpy(input_ids),
            "labels": torch.from_numpy(labels),
            "doc_start": torch.from_numpy(doc_start),
            "domain": [self._store.domain(row) for row in rows],
        }


def _mask_padding(
    input_ids: NDArray[np.int64], labels: NDArray[np.int64], doc_start: NDArray[np.bool_], eos_id: int
) -> None:
    """Take the labels out that predict padding: an end-of-text after an end-of-text where no document begins.

    The last label of a row has no `doc_start` of its own; an end-of-text after another is padding there, too,
    unless an empty document begins behind it, which has nothing to predict.
    """
    starts_behind = np.zeros_like(doc_start)
    starts_behind[:, :-1] = doc_start[:, 1:]
    labels[(input_ids == eos_id) & (labels == eos_id) & ~starts_behind] = IGNORED_LABEL


class _WindowRows:
    """The rows of the current window, each page read when its first row is wanted."""

    def __init__(self, store: PackedStore):
        self._store = store
        self._tokens = np.empty((0, store.manifest.seq_len + 1), store.manifest.token_type)
        self.forget()

    def forget(self) -> None:
        self._start = self.end = 0

    def covers(self, position: int) -> bool:
        return self._start <= position < self.end

    def enter(self, window: Window) -> None:
        self._start, self.end = window.start, window.end
        self._pages, self._slots = window.pages, window.slots
        page_rows = self._store.page_rows[window.pages]
        self._first_slot = np.cumsum(page_rows, dtype=np.int64) - page_rows
        self._page_of_slot = np.repeat(np.arange(len(page_rows)), page_rows)
        self._is_read = np.zeros(len(page_rows), np.bool_)
        if len(self._tokens) < len(window.slots):  # else the memory of the last window is used again
            self._tokens = np.empty((len(window.slots), self._tokens.shape[1]), self._tokens.dtype)

    def take(self, positions: NDArray[np.int64]) -> tuple[NDArray, NDArray[np.int64]]:
        """Tokens [rows, L + 1] and row numbers in the data set [rows] of positions in this window."""
        slots = self._slots[positions - self._start]
        pages = self._page_of_slot[slots]
        for page in np.unique(pages[~self._is_read[pages]]):
            rows = self._store.read_page(int(self._pages[page]))
            self._tokens[self._first_slot[page] : self._first_slot[page] + len(rows)] = rows
            self._is_read[page] = True
        first_rows = self._store.page_first_row[self._pages[pages]]
        return self._tokens[slots], first_rows + slots - self._first_slot[pages]


def _check_arguments(
    batch_size: int, seed: int, rank: int, world_size: int, window_pages: int, lanes: int, epochs: int | None
) -> None:
    problems = {
        "batch_size must be 1 or more": batch_size < 1,
        "seed must be 0 or more": seed < 0,
        "window_pages must be 1 or more": window_pages < 1,
        "epochs must be 1 or more, or None for an endless loop": epochs is not None and epochs < 1,
        f"rank {rank} is not below world_size {world_size}": not 0 <= rank < world_size,
    }
    for problem, found in problems.items():
        if found:
            raise ValueError(problem)
    if lanes < 1 or lanes % world_size:
        raise ValueError(
            f"world_size {world_size} does not divide the {lanes} lanes: choose lanes as a multiple of it"
        )
    if batch_size % world_size:
        raise ValueError(
            f"batch_size {batch_size} counts the rows of all ranks together and must be a multiple of "
            f"world_size {world_size}"
        )

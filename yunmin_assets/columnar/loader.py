"""`PackedDataset`: a torch data set that trains straight from the pages of packed Parquet shards.

- Every row exactly once per epoch, in an order that is a pure function of (seed, epoch, data set); see
  reading_order.
- Elastic: `batch_size` is the **global** batch, shared out over the ranks. Step k holds the same rows on 1,
  2, 4 or 8 ranks, so a run may go on with another number of ranks.
- Exact resume: `state_dict()` is a handful of numbers, and going on at any position costs one page per row.
- Pages are read and decompressed ahead (see row_stream); tokens stay 16 bits wide until a batch is made.

**Labels are already shifted**: `labels[t]` is the token after `input_ids[t]`. Compute the loss as
`cross_entropy(logits.flatten(0, 1), labels.flatten())`. Do NOT pass these labels to a Hugging Face model's
`labels=`: it shifts them a second time (pass `labels=input_ids` there).

Price: one window of pages in memory, `window_pages` × 64 KB (64 MB by default) over all ranks together.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from upath import UPath

from yunmin_assets.columnar.batches import BatchMaker, PackedBatch
from yunmin_assets.columnar.packed_store import open_store
from yunmin_assets.columnar.reading_order import ReadingOrder
from yunmin_assets.columnar.remote_shards import warn_of_small_cache
from yunmin_assets.columnar.resumable import Arguments, ResumableDataset, is_remote, located
from yunmin_assets.columnar.row_stream import RowStream

DEFAULT_LANES = 8


class PackedDataset(ResumableDataset):
    """Iterates over a folder written by `pack_documents`.

    Iterating goes on from the current state. A finished loop leaves the state at the next epoch, so looping
    again gives another order; a loop that was left early, or whose state was loaded, is continued.

    The last batch of an epoch holds what is left, fewer rows than the others. With several ranks, some may
    get a batch of no rows then (shape [0, L]): every rank sees the same number of batches.

    No `DataLoader` is needed. Inside one (`batch_size=None`), any number of workers gives the same batches in
    the same order; every worker reads nearly every page, so more than one or two only cost. Workers read copies:

    - Every loop begins where this data set stands, and does not move it: call `set_epoch` before each, else all
      epochs have the same order. With `persistent_workers` every loop goes on to the next epoch by itself.
    - A loop that was left early cannot be continued, for workers read ahead. With `persistent_workers` the next
      loop is the next epoch, or where `epochs` is None the same again.
    - Where a run stands only torchdata's `StatefulDataLoader` knows; `state_dict` of the data set refuses.

    Under `accelerate` say which rank this process is, and do not `prepare` the loader:

        PackedDataset(path, rank=accelerator.process_index, world_size=accelerator.num_processes)

    `prepare` takes one `DataLoader` of several processes for several copies of the same rows, or lets one process
    read for all; a step's rows and the state are then no longer what is said here.

    Args:
        path: the folder, or an `s3://` prefix.
        batch_size: rows of a step over **all** ranks; each rank gets `batch_size / world_size` of them.
        seed: of the reading order; 0 or more.
        rank: this process among the `world_size` that train together.
        shuffle: false reads rows in their stored order (and each rank then reads every page).
        window_pages: pages that are mixed, and held in memory, at a time.
        lanes: the world size may be any divisor of it; part of the order.
        epochs: how many a loop runs; None for an endless loop.
        shuffle_blocks: permute blocks of about 16 MB instead of single pages, so that what is fetched at once
            is used at once. By default so for a remote `path`, and not for a folder.
        read_thread: a thread reads, so that the loop need not wait for slow storage. By default so for a
            remote `path`; from a local disk the loop itself is twice as fast. Try it on a network disk.
        remote: only for a remote path: options of `RemoteShards`: `cache`, `cache_bytes`, `storage_options`.

    Warns:
        UserWarning: several processes of torch.distributed, but `world_size` is 1; or single pages are shuffled
            that lie in remote blocks, more than the cache holds.

    Raises:
        FileNotFoundError: the manifest, a shard or its index is missing.
        DamagedFileError: one of them is truncated or damaged (a damaged page: when it is read).
        ValueError: no rows, or arguments that do not fit together.

    Example:
        dataset = PackedDataset("packed", batch_size=8)
        for batch in dataset:
            logits = model(batch["input_ids"])
            loss = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    """

    OPENED = ("_store", "_order")

    def __init__(
        self,
        path: Path | UPath | str,
        batch_size: int = 8,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        window_pages: int = 1024,
        lanes: int = DEFAULT_LANES,
        epochs: int | None = 1,
        shuffle_blocks: bool | None = None,
        read_thread: bool | None = None,
        remote: Mapping[str, Any] | None = None,
    ):
        if epochs is not None and epochs < 1:
            raise ValueError("epochs must be 1 or more, or None for an endless loop")
        self._remote = dict(remote or {})
        (self._path,) = located([path], self._remote)
        self._shuffle = shuffle
        self._shuffle_blocks = is_remote(path) if shuffle_blocks is None else shuffle_blocks
        self._read_thread = is_remote(path) if read_thread is None else read_thread
        super().__init__(Arguments(batch_size, seed, rank, world_size, window_pages, lanes), epochs)
        if shuffle and not self._shuffle_blocks and is_remote(path):
            warn_of_small_cache(sum(file.bytes for file in self._store.manifest.files), **self._remote)

    def __len__(self) -> int:
        """Batches of a whole loop of `epochs` epochs, the same on every rank.

        Raises:
            TypeError: the loop is endless.
        """
        if self._epochs is None:
            raise TypeError("an endless PackedDataset (epochs=None) has no length")
        return self._epochs * -(-self._epoch_rows // self._arguments.batch_size)

    def __iter__(self) -> Iterator[PackedBatch]:
        steps, manifest = self._steps(), self._store.manifest
        maker = BatchMaker(manifest.seq_len, self._store.domains)
        with RowStream(
            self._store,
            self._order,
            steps.positions,
            epoch=steps.epoch,
            position=steps.position,
            end_epoch=steps.end_epoch,
            has_thread=self._read_thread,
        ) as stream:
            for run in steps.runs():
                counts = [steps.count(step) for step in run]
                batches = maker.batches(stream.take(sum(counts)), counts)
                for step, batch in zip(run, batches, strict=True):
                    self._has_delivered(step)
                    yield batch
        self._has_finished(steps.end_epoch)

    def _open(self) -> int:
        self._store = open_store(self._path, **self._remote)
        self._order = ReadingOrder(
            self._store.page_rows,
            self._arguments.seed,
            self._shuffle,
            self._arguments.window_pages,
            self._arguments.lanes,
            self._store.blocks if self._shuffle_blocks else None,
        )
        return self._store.manifest.rows

    def _description(self) -> str:
        manifest = self._store.manifest
        return f"{str(self._path)!r} with {manifest.rows} rows in {len(manifest.files)} shards"

    def _identity(self) -> dict[str, Any]:
        return {
            "manifest": self._store.manifest.fingerprint,
            "shuffle": self._shuffle,
            "shuffle_blocks": self._shuffle_blocks,
            **super()._identity(),
        }

"""`MixedDataset`: batches from several packed data sets, mixed by weights.

The mixture is endless. Each source goes through its own epochs, every row once in each, in the order that
`PackedDataset` has; a source with a large weight begins its next epoch earlier than others. Everything is a
pure function of (seed, weights, data sets), so the state is one number, and any number of ranks may go on.

Price: a window of `window_pages`, shared out among the sources by their weights. The rows of a rank lie
anywhere among those of a source, so each of several ranks reads nearly every page.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from yunmin_assets.columnar.batches import BatchMaker, PackedBatch
from yunmin_assets.columnar.loader import DEFAULT_LANES
from yunmin_assets.columnar.manifest import PackManifest
from yunmin_assets.columnar.mixing import CYCLE, MixingSchedule, places_of_sources
from yunmin_assets.columnar.packed_store import open_store
from yunmin_assets.columnar.reading_order import ReadingOrder
from yunmin_assets.columnar.remote_shards import warn_of_small_cache
from yunmin_assets.columnar.resumable import ENDLESS, Arguments, ResumableDataset, is_remote, located
from yunmin_assets.columnar.row_stream import Rows, RowStream
from yunmin_assets.columnar.steps import Steps

MUST_BE_EQUAL = ("seq_len", "dtype", "eos_id", "vocab_size", "tokenizer_hash")


class MixedDataset(ResumableDataset):
    """Iterates without end over packed data sets, in proportion to weights.

    Batches are those of `PackedDataset`, and so are the rules for several ranks and for `DataLoader` workers;
    `domain` names the source of each row.

    Args:
        paths: name of a source → folder or `s3://` prefix written by `pack_documents`.
        weights: name of a source → positive number; rounded to 1/1024 of their sum, at least one.
        batch_size, seed, rank, world_size, window_pages, lanes, shuffle_blocks, read_thread, remote: see
            `PackedDataset`.

    Raises:
        FileNotFoundError, DamagedFileError: see `PackedDataset`.
        ValueError: names and weights do not match, the sources have different tokenizers or layouts, or
            arguments that do not fit together; a weight is too small for one row in 1024.

    Warns:
        UserWarning: see `PackedDataset`.

    Example:
        dataset = MixedDataset({"law": "packed/law", "news": "packed/news"}, {"law": 0.7, "news": 0.3})
        for batch in dataset: ...
    """

    OPENED = ("_stores", "_manifest", "_orders")

    def __init__(
        self,
        paths: Mapping[str, Path | UPath | str],
        weights: Mapping[str, float],
        batch_size: int = 8,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        window_pages: int = 1024,
        lanes: int = DEFAULT_LANES,
        shuffle_blocks: bool | None = None,
        read_thread: bool | None = None,
        remote: Mapping[str, Any] | None = None,
    ):
        if paths.keys() != weights.keys():
            raise ValueError(f"weights for {sorted(weights)}, but paths for {sorted(paths)}: name the same")
        places = places_of_sources(weights)
        self._names, self._places = list(places), tuple(places.values())
        self._remote = dict(remote or {})
        self._paths = located([paths[name] for name in self._names], self._remote)
        has_remote = any(map(is_remote, self._paths))
        self._shuffle_blocks = has_remote if shuffle_blocks is None else shuffle_blocks
        self._read_thread = has_remote if read_thread is None else read_thread
        super().__init__(Arguments(batch_size, seed, rank, world_size, window_pages, lanes), epochs=None)
        self._schedule = MixingSchedule(self._places, self._arguments.seed)
        if has_remote and not self._shuffle_blocks:
            warn_of_small_cache(self._remote_bytes(), **self._remote)

    def __iter__(self) -> Iterator[PackedBatch]:
        steps = self._steps()
        maker = BatchMaker(self._manifest.seq_len, self._names)
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(self._stream(source, steps)) for source in range(len(self._names))]
            for run in steps.runs():
                positions = steps.positions(0, run[0].start, run[-1].end)
                sources = self._schedule.sources(run[0].start, run[-1].end)[positions - run[0].start]
                batches = maker.batches(_gathered(streams, sources), [steps.count(step) for step in run])
                for step, batch in zip(run, batches, strict=True):
                    self._has_delivered(step)
                    yield batch

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: a mixture has no epochs. Training frameworks call it by themselves."""

    def _open(self) -> int:
        self._stores = [open_store(path, **self._remote) for path in self._paths]
        self._manifest = self._stores[0].manifest
        for name, store in zip(self._names, self._stores, strict=True):
            _require_equal(self._names[0], self._manifest, name, store.manifest)
        self._orders = [
            ReadingOrder(
                store.page_rows,
                self._arguments.seed,
                shuffle=True,
                window_pages=max(1, round(self._arguments.window_pages * places / CYCLE)),
                lanes=self._arguments.lanes,
                blocks=store.blocks if self._shuffle_blocks else None,
            )
            for store, places in zip(self._stores, self._places, strict=True)
        ]
        return ENDLESS

    def _remote_bytes(self) -> int:
        """Bytes of the remote shards."""
        stores = zip(self._paths, self._stores, strict=True)
        return sum(file.bytes for path, store in stores if is_remote(path) for file in store.manifest.files)

    def _description(self) -> str:
        rows = sum(store.manifest.rows for store in self._stores)
        return f"{len(self._names)} sources with {rows} rows"

    def _stream(self, source: int, steps: Steps) -> RowStream:
        store = self._stores[source]
        rows = store.manifest.rows
        epoch, position = divmod(self._schedule.rows_before(steps.position, source), rows)
        share = self._share(source, rows, steps)
        return RowStream(
            store,
            self._orders[source],
            share,
            epoch=epoch,
            position=position,
            end_epoch=None,
            has_thread=self._read_thread,
        )

    def _share(self, source: int, rows: int, steps: Steps) -> Callable[[int, int, int], NDArray[np.int64]]:
        def share(epoch: int, start: int, end: int) -> NDArray[np.int64]:
            positions = self._schedule.positions(source, epoch * rows + start, epoch * rows + end)
            return start + np.flatnonzero(steps.is_own(0, positions))

        return share

    def _identity(self) -> dict[str, Any]:
        fingerprints = [store.manifest.fingerprint for store in self._stores]
        return {
            "manifests": _hash([self._names, fingerprints]),
            "weights": _hash([self._names, self._places]),
            "shuffle_blocks": self._shuffle_blocks,
            **super()._identity(),
        }


def _hash(values: list[Any]) -> str:
    """SHA-256 of JSON values: the state of many sources stays small."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _gathered(streams: list[RowStream], sources: NDArray[np.int64]) -> Rows:
    """The next rows of the streams, as `sources` has them take turns."""
    places = [np.flatnonzero(sources == source) for source in range(len(streams))]
    pieces = [stream.take(len(own)) for stream, own in zip(streams, places, strict=True)]
    order = np.argsort(np.concatenate(places))
    return Rows(
        np.concatenate([piece.tokens for piece in pieces])[order],
        np.concatenate([piece.start_bits for piece in pieces])[order],
        np.concatenate([piece.padding for piece in pieces])[order],
        sources.astype(np.uint16),
    )


def _require_equal(first: str, wanted: PackManifest, name: str, found: PackManifest) -> None:
    for field in MUST_BE_EQUAL:
        if getattr(found, field) != getattr(wanted, field):
            raise ValueError(
                f"{name!r} and {first!r} cannot be mixed: {field} is {getattr(found, field)!r} and "
                f"{getattr(wanted, field)!r}"
            )

"""Connected components of documents that may be duplicates, band by band in bounded memory.

Two documents are connected if their normalised texts are equal or they share a band key. Whoever meets
nobody is kept without another look, and a component can be decided without the rest: that is what makes
deduplication work in batches, resume, and repeat only what a new delivery touches.

The sorted key files of all domains are read one band and one key range at a time into a union-find over
documents (path halving, roots are the smallest document). Documents are numbered through all domains.

Only *fresh* documents and what they meet are connected: everything else is connected already, by an
earlier run. In a first run every document is fresh.

Price: 6 bytes per document, besides the key range at hand. After each band a checkpoint of 5 bytes per
document, from which a killed run goes on.
"""

# Compiled with 30a42715dbf9

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yunmin_assets.compiling import kernel
from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.key_files import key_ranges, read_keys, rows_in
from yunmin_assets.dedup.signature_files import TEXT_HASHES_FILE, band_file
from yunmin_assets.dedup.union_find import flatten, join
from yunmin_assets.progress import Log, Progress

# mypy: allow-untyped-defs
# numba infers the types of the kernels; the docstrings state them.

Documents = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Components:
    """Who may be a duplicate of whom, over n documents.

    Attributes:
        roots: uint32[n], the smallest document of each document's component.
        repeats: bool[n], whether a smaller document has the same normalised text.
        fresh: bool[n], documents that no earlier run has decided in this company.
    """

    roots: Documents
    repeats: Flags
    fresh: Flags

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All of it, for a digest."""
        return self.roots, self.repeats, self.fresh

    @classmethod
    def unconnected(cls, count: int) -> "Components":
        """Every document by itself and fresh, as a first run starts."""
        return cls(np.arange(count, dtype=np.uint32), np.zeros(count, np.bool_), np.ones(count, np.bool_))


def connect(
    folders: Sequence[Path],
    firsts: Sequence[int],
    components: Components,
    config: DedupConfig,
    checkpoint: Path,
    *,
    log: Log,
) -> Components:
    """Connect documents that share a text hash or a band key.

    Args:
        folders: of signatures, one per domain.
        firsts: the number of each domain's first document.
        components: what is connected already; it is changed in place.
        config: bands and the memory budget.
        checkpoint: file to continue from, written after each band.
        log: progress by band.
    """
    files = [TEXT_HASHES_FILE, *(band_file(band) for band in range(config.bands))]
    done = _load_checkpoint(checkpoint, components)
    with Progress(log, "bands grouped", len(files)) as progress:
        progress.advance(done)
        for number, name in enumerate(files[done:], start=done + 1):
            paths = [folder / name for folder in folders]
            for bounds in key_ranges(sum(map(rows_in, paths)), config.memory_budget_bytes):
                _connect_range(
                    [_Rows.read(path, first, bounds) for path, first in zip(paths, firsts, strict=True)],
                    components,
                )
            _save_checkpoint(checkpoint, components, number)
            progress.advance()
    flatten(components.roots)
    return components


@dataclass(frozen=True)
class _Rows:
    """Rows of one domain in a key range, sorted: keys and low uint64[r], documents uint32[r].

    `low` is the other half of a text hash. A band key has no other half, so it stands for itself there.
    """

    keys: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    documents: Documents
    is_text: bool

    @classmethod
    def read(cls, path: Path, first: int, bounds: tuple[int, int]) -> "_Rows":
        table = read_keys(path, bounds)
        is_text = "low" in table.column_names
        keys = table["key"].to_numpy()
        low = table["low"].to_numpy() if is_text else keys
        return cls(keys, low, table["document"].to_numpy() + np.uint32(first), is_text)

    def at(self, places: npt.NDArray[np.int64] | Flags) -> "_Rows":
        return _Rows(self.keys[places], self.low[places], self.documents[places], self.is_text)

    def with_keys(self, wanted: npt.NDArray[np.uint64]) -> "_Rows":
        """The rows whose key is among `wanted` (sorted, distinct); cheap if these are few."""
        begins = np.searchsorted(self.keys, wanted, "left")
        lengths = np.searchsorted(self.keys, wanted, "right") - begins
        shifts = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
        return self.at(shifts + np.arange(shifts.size))


def _connect_range(parts: list[_Rows], components: Components) -> None:
    is_text = parts[0].is_text
    if not is_text:  # texts that are equal share every key: one of them is enough
        parts = [part.at(~components.repeats[part.documents]) for part in parts]
    if not components.fresh.all():
        fresh_keys = [part.keys[components.fresh[part.documents]] for part in parts]
        wanted = np.unique(np.concatenate(fresh_keys))
        parts = [part.with_keys(wanted) for part in parts]
    keys = np.concatenate([part.keys for part in parts])
    low = np.concatenate([part.low for part in parts]) if is_text else keys
    documents = np.concatenate([part.documents for part in parts])
    # Both are stable, so the documents of a group stay in ascending order.
    order = np.lexsort((low, keys)) if is_text else np.argsort(keys, kind="stable")
    _link_equal(keys[order], low[order], documents[order], components.roots, components.repeats, is_text)


@kernel
def _link_equal(keys, low, documents, roots, repeats, mark_repeats):
    """Connect neighbours with equal keys; with `mark_repeats`, flag all but the first of a group."""
    for at in range(1, keys.size):
        if keys[at] != keys[at - 1] or low[at] != low[at - 1]:
            continue
        join(roots, documents[at - 1], documents[at])
        if mark_repeats:
            repeats[documents[at]] = True
            if at == 1 or keys[at - 1] != keys[at - 2] or low[at - 1] != low[at - 2]:
                repeats[documents[at - 1]] = False


def _save_checkpoint(path: Path, components: Components, done: int) -> None:
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, roots=components.roots, repeats=components.repeats, done=done)
    os.replace(unfinished, path)


def _load_checkpoint(path: Path, components: Components) -> int:
    """Put the arrays of a checkpoint in place; return how many files they cover, 0 if there is none."""
    if not path.exists():
        return 0
    with np.load(path) as stored:
        components.roots[:], components.repeats[:] = stored["roots"], stored["repeats"]
        return int(stored["done"])

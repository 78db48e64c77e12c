"""How often each of many 64-bit hashes came, counted exactly in bounded memory.

Hashes are sorted and counted when enough have come in, and written away as a run. In the end the range of
hashes is cut into parts, as many as it takes for all runs' entries of one part to fit into memory together,
and the counts are added up part by part. A hash that comes all the time costs one entry per run.

Price: a sort of what fits into memory; one write and one read of 16 bytes per run and different hash in it.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

WORKING_COPIES = 8
"""Bytes held at the peak per byte of hashes or entries: as they came, joined, sorted, counted."""
HASH_VALUES = 1 << 64


class HashCounts:
    """Counts hashes.

    Args:
        scratch: an empty folder for runs, the caller's to remove.
        memory_bytes: limit of what is held, as far as the hashes spread evenly over their range.

    Raises:
        ValueError: `memory_bytes` is not positive.
    """

    def __init__(self, scratch: Path, memory_bytes: int) -> None:
        if memory_bytes < 1:
            raise ValueError(f"memory_bytes is {memory_bytes}: give the count some memory")
        self._scratch, self._memory_bytes = scratch, memory_bytes
        self._pending: list[npt.NDArray[np.uint64]] = []
        self._pending_bytes = 0
        self._runs: list[Path] = []
        self._run_bytes = 0

    def add(self, hashes: npt.NDArray[np.uint64]) -> None:
        """Count each of uint64[h] once."""
        self._pending.append(hashes)
        self._pending_bytes += hashes.nbytes
        if self._pending_bytes * WORKING_COPIES > self._memory_bytes:
            self._write_run()

    def at_least(self, threshold: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """The hashes that came `threshold` times or more, uint64[k] ascending, and how often, int64[k]."""
        if not self._runs:
            return _reaching(self._take_pending(), threshold)
        self._write_run()
        parts = -(-self._run_bytes * WORKING_COPIES // self._memory_bytes)
        found = [_reaching(self._part(part, parts), threshold) for part in range(parts)]
        hashes, counts = zip(*found, strict=True)
        return np.concatenate(hashes), np.concatenate(counts)

    def _take_pending(self) -> npt.NDArray[np.uint64]:
        """The different hashes pending, ascending, and how often each is: uint64[2, k]."""
        hashes = np.concatenate([np.empty(0, np.uint64), *self._pending])
        self._pending, self._pending_bytes = [], 0
        different, counts = np.unique(hashes, return_counts=True)
        return np.stack([different, counts.astype(np.uint64)])

    def _write_run(self) -> None:
        run = self._take_pending()
        self._runs.append(self._scratch / f"run-{len(self._runs):06d}.npy")
        np.save(self._runs[-1], run)
        self._run_bytes += run.nbytes

    def _part(self, part: int, parts: int) -> npt.NDArray[np.uint64]:
        """The entries of all runs in one part of the range of hashes, added up: uint64[2, k]."""
        first, last = part * HASH_VALUES // parts, (part + 1) * HASH_VALUES // parts - 1
        entries = [_entries_between(path, np.uint64(first), np.uint64(last)) for path in self._runs]
        hashes, counts = np.concatenate(entries, axis=1)
        different, places = np.unique(hashes, return_inverse=True)
        sums = np.zeros(different.size, np.uint64)
        np.add.at(sums, places, counts)
        return np.stack([different, sums])


def _entries_between(path: Path, first: np.uint64, last: np.uint64) -> npt.NDArray[np.uint64]:
    """The entries of a run with first ≤ hash ≤ last."""
    run = np.load(path, mmap_mode="r")
    start, end = np.searchsorted(run[0], first, "left"), np.searchsorted(run[0], last, "right")
    return np.array(run[:, start:end])


def _reaching(
    entries: npt.NDArray[np.uint64], threshold: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    hashes, counts = entries
    return hashes[counts >= threshold], counts[counts >= threshold].astype(np.int64)

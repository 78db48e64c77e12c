"""Grouping alone: millions of documents by 21 bands into components, in bounded memory.

    python -m benchmarks.dedup_grouping --documents 3000000 --memory-budget-mb 256

The keys are random, and one document in ten shares each band key with an earlier one. Prints JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import machine_facts, measured, run_fresh

SHARING = 0.1
PART_DOCUMENTS = 100_000


def write_bands(folder: Path, documents: int) -> None:
    """Key files as `signatures` has them, for one domain."""
    from yunmin_assets.dedup import DedupConfig
    from yunmin_assets.dedup.key_files import Keys, write_keys
    from yunmin_assets.dedup.signature_files import TEXT_HASHES_FILE, band_file

    config = DedupConfig()

    def parts(seed: int, halves: int) -> Iterator[Keys]:
        random = np.random.default_rng(seed)
        for first in range(0, documents, PART_DOCUMENTS):
            keys = random.integers(0, 1 << 64, (halves, min(PART_DOCUMENTS, documents - first)), np.uint64)
            shares = np.flatnonzero(random.random(keys.shape[1]) < SHARING)
            keys[:, shares] = keys[:, np.maximum(shares - 1, 0)]
            yield keys

    budget = config.memory_budget_bytes
    for band in range(config.bands):
        write_keys(folder / band_file(band), partial(parts, band, 1), documents, budget, {})
    write_keys(folder / TEXT_HASHES_FILE, partial(parts, config.bands, 2), documents, budget, {}, halves=2)


def group(folder: Path, documents: int, budget_mb: int) -> int:
    """Connect the documents; return how many components there are."""
    from yunmin_assets.dedup import DedupConfig
    from yunmin_assets.dedup.components import Components, connect
    from yunmin_assets.progress import silent

    components = Components.unconnected(documents)
    config = DedupConfig(memory_budget_mb=budget_mb)
    connect([folder], [0], components, config, folder / "checkpoint.npz", log=silent)
    (folder / "checkpoint.npz").unlink()
    return int(np.count_nonzero(components.roots == np.arange(documents)))


def main() -> None:
    """Write keys and group them in a fresh process; or, as that process, group and print the cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=3_000_000)
    parser.add_argument("--memory-budget-mb", type=int, default=256)
    parser.add_argument("--keys", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.keys:
        components, cost = measured(lambda: group(options.keys, options.documents, options.memory_budget_mb))
        print(json.dumps({"components": components, **asdict(cost)}))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_bands(Path(folder), options.documents)
        arguments = [f"--documents={options.documents}", f"--memory-budget-mb={options.memory_budget_mb}"]
        report = run_fresh("benchmarks.dedup_grouping", [*arguments, f"--keys={folder}"])
    facts = {"documents": options.documents, "memory_budget_mb": options.memory_budget_mb}
    print(json.dumps({"benchmark": "dedup grouping", **facts, **report, "machine": machine_facts()}))


if __name__ == "__main__":
    main()

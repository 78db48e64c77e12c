"""One tool, once, in a process of its own: `python -m benchmarks.dedup_child`. `dedup` starts it.

The tool works on a few hundred documents first, so that imports and compilation are not in the figures.
What is measured begins with the Arrow table in memory and ends with a decision for every document.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.dedup_peers import PEERS
from benchmarks.measure import MEGABYTE, measured, versions

WARM_UP_DOCUMENTS = 300

OURS = {
    "ours": "21×6, exact verification, anchored",
    "ours-linked": "21×6, exact verification, connected components",
    "ours-slimpajama": "SlimPajama's 9×13, not verified, connected components",
    "signatures": "compute_signatures alone, on one core",
    "first-use": "300 documents with an empty cache: imports and compilation",
}
Work = Callable[[pa.Table], Any]
"""Takes documents with id and text; returns our table of decisions or a peer's array of survivors."""

OUR_PACKAGES = ("numba", "numpy", "pyarrow")


def main() -> None:
    """Print costs, versions and sizes as JSON, or which package is absent; write the decisions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=[*OURS, *PEERS])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("threshold", type=float)
    parser.add_argument("decisions", type=Path)
    arguments = parser.parse_args()
    documents = pq.read_table(arguments.corpus / "corpus.parquet", columns=["id", "text"])
    try:
        report = _run(arguments.tool, documents, arguments.threshold, arguments.decisions)
    except ModuleNotFoundError as missing:
        report = {"absent": missing.name}
    print(json.dumps(report))


def _run(tool: str, documents: pa.Table, threshold: float, decisions: Path) -> dict[str, Any]:
    few = documents.slice(0, WARM_UP_DOCUMENTS)
    work, cost = measured(lambda: _warmed_up(tool, few, threshold))
    if tool == "first-use":
        documents = few  # the warm-up itself is what is asked for
    else:
        result, cost = measured(lambda: work(documents))
        if tool != "signatures":
            pq.write_table(_decisions(documents, result), decisions)
    return {
        "documents": documents.num_rows,
        "megabytes": pc.sum(pc.binary_length(documents["text"])).as_py() / MEGABYTE,
        **asdict(cost),
        "versions": versions(PEERS[tool].packages if tool in PEERS else OUR_PACKAGES),
    }


def _warmed_up(tool: str, few: pa.Table, threshold: float) -> Work:
    work = _peer(tool) if tool in PEERS else _ours(tool, threshold)
    work(few)
    return work


def _peer(tool: str) -> Work:
    return lambda documents: PEERS[tool].find(documents["text"])


def _ours(tool: str, threshold: float) -> Work:
    from yunmin_assets.dedup import DedupConfig, compute_signatures, deduplicate

    config = DedupConfig.slimpajama() if tool == "ours-slimpajama" else DedupConfig()
    survivors = "linked" if tool == "ours-linked" else config.survivors
    config = config.model_copy(update={"threshold": threshold, "survivors": survivors})
    if tool == "signatures":
        return lambda documents: compute_signatures(documents["text"], config)
    return lambda documents: deduplicate(documents, config)


def _decisions(documents: pa.Table, result: Any) -> pa.Table:
    """Id, kept and survivor_id of every document, from what a tool returned."""
    if isinstance(result, pa.Table):
        return result.select(["id", "kept", "survivor_id"])
    kept = result == np.arange(len(result))
    survivors = documents["id"].take(pa.array(result))
    return pa.table({"id": documents["id"], "kept": kept, "survivor_id": survivors})


if __name__ == "__main__":
    main()

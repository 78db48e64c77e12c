"""From decisions to a corpus: the documents that stay, by split, and a log of those that go."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.dedup.splits import SplitConfig, split_of
from yunmin_assets.documents import EXACT_DUPLICATE, SPLITS, split_path, write_documents

NEAR_DUPLICATE = "near-duplicate"

DOMAIN_DECISION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("cluster_id", pa.string(), nullable=False),  # domain/id of the survivor
        pa.field("survivor_domain", pa.string(), nullable=False),
        pa.field("survivor_id", pa.string(), nullable=False),
        pa.field("jaccard", pa.float64(), nullable=False),
    ]
)


def qualify_ids(domain: str, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """domain/id: unique over all domains even where two of them number their documents alike."""
    return pc.binary_join_element_wise(pa.scalar(domain), ids.cast(pa.string()), "/")


def decisions_by_domain(decisions: pa.Table, domains: pa.ChunkedArray) -> dict[str, pa.Table]:
    """Cut decisions over qualified ids into one table per domain (`DOMAIN_DECISION_SCHEMA`, in input order).

    Args:
        decisions: what `deduplicate` returns for ids of the form domain/id.
        domains: the domain of each row.
    """
    separated = pa.table(
        {
            "id": _without_domain(decisions["id"]),
            "kept": decisions["kept"],
            "cluster_id": decisions["cluster_id"],
            "survivor_domain": pc.list_element(
                pc.split_pattern(decisions["survivor_id"], "/", max_splits=1), 0
            ),
            "survivor_id": _without_domain(decisions["survivor_id"]),
            "jaccard": decisions["jaccard"],
        }
    ).cast(DOMAIN_DECISION_SCHEMA)
    return {
        name: separated.filter(pc.equal(domains, name)) for name in sorted(pc.unique(domains).to_pylist())
    }


def apply_decisions(
    documents: pa.Table, decisions: pa.Table, splits: SplitConfig, folder: Path
) -> Mapping[str, int]:
    """Write train, validation and test of one domain, and `removed.parquet`.

    Args:
        documents: `DOCUMENT_SCHEMA`.
        decisions: `DOMAIN_DECISION_SCHEMA`, one row per document in the same order.
        splits: shares that are held out.
        folder: where the files go.

    Returns:
        Documents per split, and under "removed".

    Raises:
        ValueError: the decisions are not about these documents.
    """
    if not documents["id"].equals(decisions["id"]):
        raise ValueError("the decisions are about other documents: materialize duplicate_clusters again")
    kept = decisions["kept"]
    survivors = documents.append_column("cluster_id", decisions["cluster_id"]).filter(kept)
    chosen = pa.array(
        [split_of(cluster, splits) for cluster in survivors["cluster_id"].to_pylist()], pa.string()
    )
    counts = {}
    for split in SPLITS:
        table = survivors.filter(pc.equal(chosen, split))
        write_documents(table, split_path(folder, split))
        counts[split] = table.num_rows
    removed = removal_log(documents, decisions)
    write_documents(removed, folder / "removed.parquet")
    return counts | {"removed": removed.num_rows}


def removal_log(documents: pa.Table, decisions: pa.Table) -> pa.Table:
    """Every document that goes: its text, the survivor it yields to and the exact Jaccard between them."""
    gone = pc.invert(decisions["kept"])
    log = decisions.select(["id", "survivor_domain", "survivor_id", "jaccard"]).filter(gone)
    reason = pc.if_else(pc.equal(log["jaccard"], 1.0), EXACT_DUPLICATE, NEAR_DUPLICATE)
    return log.append_column("reason", reason).append_column("text", documents["text"].filter(gone))


def _without_domain(qualified: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.list_element(pc.split_pattern(qualified, "/", max_splits=1), 1)

"""Deduplication over the snapshots of all domains: read, decide, write one file of decisions per domain."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.decisions import decide
from yunmin_assets.dedup.recall import score_against_truth
from yunmin_assets.dedup.removal import decisions_by_domain, qualify_ids
from yunmin_assets.dedup.signature_files import read_signatures
from yunmin_assets.dedup.signatures import Signatures
from yunmin_assets.documents import EXACT_DUPLICATE, document_files, read_documents
from yunmin_assets.progress import Log, silent

HARD_PAIRS_BELOW = 0.85
"""Pairs between the threshold and this Jaccard are the ones that are easily missed."""


def decide_over_domains(
    clean_folders: Mapping[str, Path],
    signature_folders: Mapping[str, Path],
    out: Path,
    config: DedupConfig,
    *,
    log: Log = silent,
) -> dict[str, pa.Table]:
    """Decide over all domains at once and write `<out>/<domain>.parquet`.

    Args:
        clean_folders: by domain, snapshots of `clean_corpus`.
        signature_folders: by domain, snapshots of `signatures` made from them.
        out: folder to create.
        config: as for `deduplicate`.
        log: progress.

    Returns:
        The decisions by domain, `DOMAIN_DECISION_SCHEMA`, in the order of the domain's documents.

    Raises:
        ValueError: signatures and documents do not belong together, or an id is repeated in a domain.
    """
    documents = pa.concat_tables([_qualified(domain, folder) for domain, folder in clean_folders.items()])
    signatures = Signatures.concatenate(
        [read_signatures(folder, config) for folder in signature_folders.values()]
    )
    decisions = decide(documents, signatures, config, log=log)
    by_domain = decisions_by_domain(decisions, documents["domain"])
    out.mkdir(parents=True)
    for domain, table in by_domain.items():
        pq.write_table(table, out / f"{domain}.parquet")
    return by_domain


def removed_without_survivor(decisions: Mapping[str, pa.Table]) -> list[str]:
    """Removed documents, as domain/id, whose survivor is not kept. There are none unless something is broken."""
    kept = {
        (domain, identifier)
        for domain, table in decisions.items()
        for identifier in table.filter(table["kept"])["id"].to_pylist()
    }
    return [
        f"{domain}/{row['id']}"
        for domain, table in decisions.items()
        for row in table.filter(pc.invert(table["kept"]))
        .select(["id", "survivor_domain", "survivor_id"])
        .to_pylist()
        if (row["survivor_domain"], row["survivor_id"]) not in kept
    ]


def recall_of(
    decisions: Mapping[str, pa.Table], removed_before: Mapping[str, Path], truth: UPath, threshold: float
) -> dict[str, int | float]:
    """Compare with planted pairs that are known: those found, and removals without any true partner.

    Args:
        decisions: what `decide_over_domains` returned.
        removed_before: by domain, `removed.parquet` of `clean_corpus`, whose exact duplicates count as found.
        truth: Parquet file with columns a, b (ids, unique over all domains) and jaccard.
        threshold: pairs from this Jaccard on are duplicates.
    """
    gone = [pq.read_table(path, columns=["id", "reason"]) for path in removed_before.values()]
    removed = pa.concat_tables(gone).filter(pc.equal(pa.concat_tables(gone)["reason"], EXACT_DUPLICATE))["id"]
    decided = [table.select(["id", "kept"]) for table in decisions.values()]
    removed_table = pa.table(
        {"id": removed, "kept": pa.array(np.zeros(len(removed), bool))}, decided[0].schema
    )
    everything = pa.concat_tables([*decided, removed_table])
    with truth.open("rb") as file:
        pairs = pq.read_table(file, columns=["a", "b", "jaccard"])
    is_known = pc.and_(
        *(pc.is_in(pairs[side], value_set=everything["id"].combine_chunks()) for side in ("a", "b"))
    )
    pairs = pairs.filter(is_known)
    score = score_against_truth(everything, pairs, threshold)
    hard = score_against_truth(everything, pairs, threshold, below=HARD_PAIRS_BELOW)
    return {
        "true_pairs": score.pairs,
        "residual_pairs": score.residual_pairs,
        "removed_with_exact": score.removed,
        "pair_recall": score.pair_recall,
        "pair_recall_hard": hard.pair_recall,
        "false_removals": score.false_removals,
    }


def _qualified(domain: str, folder: Path) -> pa.Table:
    table = read_documents(document_files(folder), columns=["id", "text"])
    domains = pa.chunked_array([pa.array([domain] * table.num_rows, pa.string())])
    return pa.table({"id": qualify_ids(domain, table["id"]), "text": table["text"], "domain": domains})

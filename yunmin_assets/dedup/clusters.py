"""Deduplication over the snapshots of all domains, in bounded memory, resumable and incremental.

1. Connect documents that share a text or a band key, band by band (`components`).
2. Pack whole components into batches and bring their documents together (`batches`).
3. Decide batch by batch, exactly as `deduplicate` does (`decisions.choose`): a component meets nobody
   outside, so the decisions are those of a run over everything at once.
4. Write one file of decisions per domain.

What an earlier run decided is taken over where no document came, went or changed (`previous`).

Price: memory is the budget of the config, beside `BYTES_PER_DOCUMENT` for each document. Everything that
is finished (bands, gathered batches, decided batches) lies in the workspace, for the next attempt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.dedup.batches import NO_BATCH, Batches, Domain, gather, plan_batches, signatures_in
from yunmin_assets.dedup.components import Components, connect
from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.decision_files import (
    REMOVED_SCHEMA,
    compared_in,
    take_over,
    write_decisions,
    write_removed,
)
from yunmin_assets.dedup.decisions import choose
from yunmin_assets.dedup.kernels import announce_first_use, collect_shingles
from yunmin_assets.dedup.previous import Previous, load_previous, write_components
from yunmin_assets.dedup.removal import NEAR_DUPLICATE
from yunmin_assets.dedup.signature_files import check_options, signature_parts
from yunmin_assets.dedup.workspaces import start_workspace
from yunmin_assets.documents import EXACT_DUPLICATE, document_files
from yunmin_assets.progress import Log, Progress, silent

BYTES_PER_DOCUMENT = 136
"""Held for every document while it is matched with an earlier run, connected and packed."""


@dataclass(frozen=True)
class ClusterCounts:
    """What a run did.

    Attributes:
        documents: in all domains.
        compared: documents in components that were decided by this run.
        batches: how many parts they were decided in.
        fresh: documents that no earlier run had decided in this company.
        text_bytes: by domain, of all documents and of those that stay.
    """

    documents: int
    compared: int
    batches: int
    fresh: int
    text_bytes: Mapping[str, tuple[int, int]]


def decide_over_domains(
    clean_folders: Mapping[str, Path],
    signature_folders: Mapping[str, Path],
    out: Path,
    config: DedupConfig,
    *,
    workspace: Path,
    previous: Path | None = None,
    log: Log = silent,
) -> ClusterCounts:
    """Decide over all domains and write `<out>/decisions/<domain>.parquet` and `<out>/components/`.

    Args:
        clean_folders: by domain, snapshots of `clean_corpus`.
        signature_folders: by domain, snapshots of `signatures` made from them.
        out: folder that gets, per domain, `DOMAIN_DECISION_SCHEMA` in the order of its documents, and
            what the next run needs.
        config: as for `deduplicate`, and the memory budget.
        workspace: keeps what is finished for the next attempt, if this one is killed.
        previous: the `out` of an earlier run, over any domains, to decide again only what changed.
        log: progress.

    Raises:
        ValueError: signatures and documents do not belong together, or the memory budget is too small
            for the number of documents.
    """
    domains = _domains(clean_folders, signature_folders, config)
    earlier = _earlier(previous, domains, config, log)
    components = earlier.components if earlier else Components.unconnected(_count(domains))
    fresh = int(components.fresh.sum())
    log(f"{_count(domains):,} documents, {fresh:,} of them new or in changed company")
    files = [file for domain in domains for file in domain.every_file()]
    start_workspace(workspace, config, components.arrays(), files)
    found = config.collision_probability(config.threshold)
    log(f"{config.bands} bands × {config.rows} rows find {found:.2%} of pairs at Jaccard {config.threshold}")
    folders, firsts = [domain.signatures for domain in domains], [domain.first for domain in domains]
    connect(folders, firsts, components, config, workspace / "components.npz", log=log)
    limit = config.memory_budget_bytes // 2
    batch_of, in_memory = plan_batches(domains, components, limit)
    scratch = workspace / "batches"
    batches = gather(domains, components, batch_of, scratch, limit // 8, in_memory=in_memory, log=log)
    decided = batch_of != NO_BATCH
    del batch_of
    compared = int(decided.sum())
    removed = _decide_batches(batches, compared, workspace, config, log)
    if earlier and previous:
        removed.append(take_over(previous, earlier, decided, workspace / "removed-before.parquet"))
    text_bytes = write_decisions(domains, removed, out)
    write_components(out, domains, components, config)
    return ClusterCounts(_count(domains), compared, batches.count, fresh, text_bytes)


def _domains(
    clean_folders: Mapping[str, Path], signature_folders: Mapping[str, Path], config: DedupConfig
) -> list[Domain]:
    domains: list[Domain] = []
    first = 0
    for name in sorted(clean_folders):
        parts = signature_parts(signature_folders[name])
        for part in parts:
            check_options(part, config)
        count = sum(pq.read_metadata(part).num_rows for part in parts)
        sources = tuple(document_files(clean_folders[name]))
        domains.append(Domain(name, sources, signature_folders[name], first, count))
        first += count
    if first * BYTES_PER_DOCUMENT > config.memory_budget_bytes:
        raise ValueError(
            f"{first:,} documents need {first * BYTES_PER_DOCUMENT / 1e6:,.0f} MB to be told apart, more than "
            f"dedup.memory_budget_mb: {config.memory_budget_mb}; raise it to twice as much"
        )
    return domains


def _count(domains: list[Domain]) -> int:
    return sum(domain.count for domain in domains)


def _earlier(previous: Path | None, domains: list[Domain], config: DedupConfig, log: Log) -> Previous | None:
    """An earlier run to go on from; None if there is none, it had other options, or it is damaged."""
    try:
        return load_previous(previous, domains, config) if previous else None
    except ValueError as problem:
        log(f"deciding everything again: {problem}")
        return None


def _decide_batches(
    batches: Batches, documents: int, workspace: Path, config: DedupConfig, log: Log
) -> list[Path]:
    """Decide what is not decided yet; one file of removed documents per batch."""
    announce_first_use(collect_shingles, log)
    files = [workspace / f"removed-{batch:05d}.parquet" for batch in range(batches.count)]
    with Progress(log, "candidates compared", documents) as progress:
        for batch, file in enumerate(files):
            if file.exists():
                progress.advance(compared_in(file))
                continue
            table = batches.read(batch)
            write_removed(_removed_of(table, workspace, config), file, compared=table.num_rows)
            progress.advance(table.num_rows)
    return files


def _removed_of(table: pa.Table, scratch: Path, config: DedupConfig) -> pa.Table:
    ids = pc.binary_join_element_wise(table["domain"], table["id"], "/")
    documents = table.select(["text", "domain", "quality"]).append_column("id", ids)
    survival = choose(documents, signatures_in(table, config), config, scratch=scratch)
    gone = np.flatnonzero(~survival.kept)
    gone = gone[np.argsort(table["document"].to_numpy()[gone])]
    survivors = table.select(["domain", "id"]).take(pa.array(survival.survivors[gone]))
    reasons = pc.if_else(pa.array(survival.exact[gone]), EXACT_DUPLICATE, NEAR_DUPLICATE)
    columns = [
        table["document"].take(pa.array(gone)),
        survivors["domain"],
        survivors["id"],
        survival.jaccards[gone],
        reasons,
    ]
    return pa.table(columns, schema=REMOVED_SCHEMA)

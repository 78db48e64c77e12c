"""Decisions on disk: of removed documents batch by batch, then one file per domain.

    removed-00000.parquet      what a batch removes, sorted by document (numbered through all domains)
    decisions/<domain>.parquet `DOMAIN_DECISION_SCHEMA`, a row per document, in order

A file of documents at a time is in memory. Files appear when they are complete.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.dedup.batches import Domain
from yunmin_assets.dedup.id_hashes import hash_ids
from yunmin_assets.dedup.key_files import naming
from yunmin_assets.dedup.previous import ABSENT, NO_PREVIOUS, Previous
from yunmin_assets.dedup.removal import DOMAIN_DECISION_SCHEMA
from yunmin_assets.dedup.signature_files import read_part, signature_parts
from yunmin_assets.snapshot_files import DECISIONS, decisions_file

Hashes = npt.NDArray[np.uint64]

NO_HASHES = np.empty(0, np.uint64)
COMPARED = b"compared"
REMOVED_SCHEMA = pa.schema(
    [
        pa.field("document", pa.uint32(), nullable=False),  # numbered through all domains
        pa.field("survivor_domain", pa.string(), nullable=False),
        pa.field("survivor_id", pa.string(), nullable=False),
        pa.field("jaccard", pa.float64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


def write_removed(removed: pa.Table, path: Path, *, compared: int) -> None:
    """Write what a batch of `compared` documents removes: `REMOVED_SCHEMA`."""
    unfinished = path.with_suffix(".part")
    pq.write_table(removed.replace_schema_metadata({COMPARED: str(compared)}), unfinished)
    os.replace(unfinished, path)


def compared_in(path: Path) -> int:
    """How many documents the batch of a file of removed documents had."""
    return int(pq.read_schema(path).metadata[COMPARED])


def take_over(previous: Path, earlier: Previous, decided: npt.NDArray[np.bool_], path: Path) -> Path:
    """Write the removals of an earlier run that still hold, under the numbers of today.

    Args:
        previous: folder of the earlier run.
        earlier: where its documents are today.
        decided: bool[n], documents that were decided again.
        path: the file to write.
    """
    unfinished = path.with_suffix(".part")
    with pq.ParquetWriter(unfinished, REMOVED_SCHEMA) as writer:
        for domain, rows in earlier.new_rows.items():
            first = 0
            for table in _row_groups(previous / decisions_file(domain)):
                numbers = rows[first : first + table.num_rows]
                first += table.num_rows
                holds = ~table["kept"].to_numpy() & (numbers != ABSENT)
                holds[holds] = ~decided[numbers[holds]]
                removed = table.select(REMOVED_SCHEMA.names[1:]).add_column(0, "document", [numbers])
                writer.write_table(removed.filter(pa.array(holds)).cast(REMOVED_SCHEMA))
    os.replace(unfinished, path)
    return path


def _row_groups(path: Path) -> Iterator[pa.Table]:
    """Row group after row group; a damaged one is an error that names the file."""
    with naming(path, NO_PREVIOUS):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        for group in range(file.metadata.num_row_groups):
            with naming(path, NO_PREVIOUS):
                table = file.read_row_group(group)
            yield table


def write_decisions(
    domains: Sequence[Domain], removed: Sequence[Path], folder: Path
) -> dict[str, tuple[int, int]]:
    """Write `decisions/<domain>.parquet` for every domain.

    Args:
        domains: whose documents.
        removed: files of removed documents, together each document once at most.
        folder: gets the folder of decisions.

    Returns:
        By domain, bytes of text of all documents and of those that stay.
    """
    text_bytes = {}
    (folder / DECISIONS).mkdir(parents=True, exist_ok=True)
    for domain in domains:
        first, whole, kept = domain.first, 0, 0
        with pq.ParquetWriter(
            folder / decisions_file(domain.name), DOMAIN_DECISION_SCHEMA, write_page_checksum=True
        ) as writer:
            for part in signature_parts(domain.signatures):
                signed = read_part(part, columns=["id", "bytes"])
                decisions = _decisions_of(domain.name, signed["id"], first, removed)
                writer.write_table(decisions)
                first += signed.num_rows
                whole += pc.sum(signed["bytes"]).as_py() or 0
                kept += pc.sum(signed["bytes"].filter(decisions["kept"])).as_py() or 0
        text_bytes[domain.name] = whole, kept
    return text_bytes


def _decisions_of(domain: str, ids: pa.ChunkedArray, first: int, removed: Sequence[Path]) -> pa.Table:
    """Decisions about the documents numbered from `first` on: removed as the files say, the others kept."""
    document = pc.field("document")
    is_here = (document >= first) & (document < first + len(ids))
    gone = pa.concat_tables(
        [REMOVED_SCHEMA.empty_table(), *(pq.read_table(file, filters=is_here) for file in removed)]
    )
    places = gone["document"].to_numpy().astype(np.int64) - first
    sources = np.arange(len(ids))
    sources[places] = len(ids) + np.arange(gone.num_rows)

    def merged(of_kept: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
        return pa.chunked_array([*of_kept.chunks, *gone[name].chunks], gone.schema.field(name).type).take(
            pa.array(sources)
        )

    own_domain = pa.chunked_array([pa.array([domain] * len(ids), pa.string())])
    survivor_domain, survivor_id = merged(own_domain, "survivor_domain"), merged(ids, "survivor_id")
    columns = {
        "id": ids,
        "kept": sources < len(ids),
        "cluster_id": pc.binary_join_element_wise(survivor_domain, survivor_id, "/"),
        "survivor_domain": survivor_domain,
        "survivor_id": survivor_id,
        "jaccard": merged(pa.chunked_array([np.ones(len(ids))]), "jaccard"),
        "reason": merged(pa.chunked_array([pa.nulls(len(ids), pa.string())]), "reason"),
    }
    return pa.table(columns, schema=DOMAIN_DECISION_SCHEMA)


def read_removed(folder: Path, domain: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The decisions about a domain's removed documents, from the folder `decide_over_domains` wrote."""
    return pq.read_table(
        folder / decisions_file(domain), columns=list(columns) if columns else None, filters=~pc.field("kept")
    )


def removed_without_survivor(folder: Path, domains: Sequence[str]) -> list[str]:
    """Removed documents, as domain/id, whose survivor is not kept. There are none unless something is broken."""
    kept = {}
    for domain in domains:
        file = folder / decisions_file(domain)
        kept[domain] = hash_ids(pq.read_table(file, columns=["id"], filters=pc.field("kept"))["id"])
        kept[domain].sort()
    lost: list[str] = []
    for domain in domains:
        removed = read_removed(folder, domain)
        for survivor_domain in removed["survivor_domain"].unique().to_pylist():
            there = removed.filter(pc.equal(removed["survivor_domain"], survivor_domain))
            is_kept = _is_in(hash_ids(there["survivor_id"]), kept.get(survivor_domain, NO_HASHES))
            lost += [f"{domain}/{name}" for name in there["id"].filter(pa.array(~is_kept)).to_pylist()]
    return lost


def _is_in(hashes: Hashes, sorted_hashes: Hashes) -> npt.NDArray[np.bool_]:
    if not sorted_hashes.size:
        return np.zeros(hashes.size, np.bool_)
    places = np.minimum(np.searchsorted(sorted_hashes, hashes), sorted_hashes.size - 1)
    return sorted_hashes[places] == hashes

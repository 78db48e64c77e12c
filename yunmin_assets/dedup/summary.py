"""What a person wants to see of deduplication: who duplicated whom, how closely, and examples to judge.

Exact duplicates are counted apart from near-duplicates throughout. Tables of decisions are only filtered
and counted by Arrow; rows about documents that stay are not needed.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.dedup.boilerplate.repeated_paragraphs import BOILERPLATE_ONLY
from yunmin_assets.dedup.removal import NEAR_DUPLICATE, RemovalCounts
from yunmin_assets.dedup.side_by_side import side_by_side
from yunmin_assets.documents import EXACT_DUPLICATE, SPLITS
from yunmin_assets.plots import bars, heatmap, histogram, literal, markdown_table

Figures = dict[str, int | float]

REASONS = (EXACT_DUPLICATE, NEAR_DUPLICATE)
CLUSTER_SIZES = (2, 3, 4, 5, 10, 100, 1000)
"""Clusters are counted by their documents, from one of these to before the next."""
LARGEST_CLUSTERS = 10
PLOTTED_DOMAINS = 20
MATRIX_COLUMNS = ("survivor_domain", "reason")
"""What who-duplicated-whom needs to know of a decision."""


def describe_clusters(
    decisions: Mapping[str, pa.Table],
    documents: Mapping[str, int],
    text_bytes: Mapping[str, tuple[int, int]] | None = None,
) -> tuple[Figures, dict[str, str]]:
    """Figures over all domains, and Markdown by name.

    Args:
        decisions: by domain, `DOMAIN_DECISION_SCHEMA`.
        documents: how many there are, by domain.
        text_bytes: of all documents and of those that stay, by domain, if known.
    """
    exact = {domain: _count(table, EXACT_DUPLICATE) for domain, table in decisions.items()}
    near = {domain: _count(table, NEAR_DUPLICATE) for domain, table in decisions.items()}
    total, removed = sum(documents.values()), sum(exact.values()) + sum(near.values())
    everything = pa.concat_tables(decisions.values())
    clusters = _clusters(everything)
    figures: Figures = {
        "documents": total,
        "kept": total - removed,
        "removed": removed,
        "exact_duplicates": sum(exact.values()),
        "near_duplicates": sum(near.values()),
        "kept_share_of_documents": _share(total - removed, total),
        "clusters": clusters.num_rows,
    }
    rendered = {
        "kept_by_domain": _kept_by_domain(documents, exact, near, text_bytes),
        "who_duplicated_whom": _who_duplicated_whom(decisions),
        "jaccard_to_survivor": _jaccard_histogram(everything),
        "cluster_sizes": _cluster_sizes(clusters),
        "largest_clusters": _largest_clusters(clusters),
    }
    return figures, rendered


def describe_removal(
    domain: str, decisions: Mapping[str, pa.Table], counts: RemovalCounts, pairs: pa.Table
) -> tuple[Figures, dict[str, str]]:
    """Figures of one domain after deduplication, and Markdown by name.

    Args:
        domain: which one.
        decisions: `DOMAIN_DECISION_SCHEMA` of this domain and `MATRIX_COLUMNS` of all others.
        counts: what `apply_decisions` returned.
        pairs: examples, as for `side_by_side`.
    """
    kept = sum(counts.splits.values())
    figures: Figures = {
        "documents_in": counts.documents_in,
        "documents": kept,
        "removed_documents": sum(counts.removed.values()),
        "exact_duplicates": counts.removed[EXACT_DUPLICATE],
        "near_duplicates": counts.removed[NEAR_DUPLICATE],
        "boilerplate_only": counts.removed[BOILERPLATE_ONLY],
        "documents_shortened": counts.documents_shortened,
        "boilerplate_paragraphs_taken_out": counts.paragraphs_taken_out,
        "boilerplate_bytes_taken_out": counts.bytes_taken_out,
        "kept_share_of_documents": _share(kept, counts.documents_in),
        "text_bytes_in": counts.text_bytes_in,
        "text_bytes": counts.text_bytes,
        "kept_share_of_bytes": _share(counts.text_bytes, counts.text_bytes_in),
        **{f"{split}_documents": counts.splits[split] for split in SPLITS},
    }
    rendered = {
        "duplicates_of_this_domain": _duplicates_of_domain(domain, decisions),
        "who_duplicated_whom": _who_duplicated_whom(decisions),
        "jaccard_to_survivor": _jaccard_histogram(decisions[domain]),
        "cluster_sizes": _cluster_sizes(_clusters(decisions[domain])),
        "sample_of_removed": side_by_side(pairs),
    }
    return figures, rendered


def removal_matrix(decisions: Mapping[str, pa.Table]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Who duplicated whom.

    Returns:
        The domains, sorted, and int64[reasons, domains, domains]: documents of the row's domain, removed for
        each of `REASONS`, whose survivor lies in the column's.
    """
    counts = {
        (reason, domain, survivors): number
        for domain, table in decisions.items()
        for survivors, reason, number in _survivor_domains(table)
    }
    domains = sorted({*decisions, *(survivors for _, _, survivors in counts)})
    matrix = [
        [[counts.get((reason, row, column), 0) for column in domains] for row in domains]
        for reason in REASONS
    ]
    return domains, np.array(matrix, np.int64)


def _survivor_domains(decisions: pa.Table) -> list[tuple[str, str | None, int]]:
    keys = ["survivor_domain", "reason"]
    counted = decisions.group_by(keys).aggregate([([], "count_all")])
    return [tuple(row.values()) for row in counted.select([*keys, "count_all"]).to_pylist()]


def _because(decisions: pa.Table, reason: str) -> pa.Table:
    return decisions.filter(pc.equal(decisions["reason"], reason))


def _count(decisions: pa.Table, reason: str) -> int:
    return pc.sum(pc.equal(decisions["reason"], reason)).as_py() or 0


def _share(part: int, whole: int) -> float:
    return part / max(whole, 1)


def _kept_by_domain(
    documents: Mapping[str, int],
    exact: Mapping[str, int],
    near: Mapping[str, int],
    text_bytes: Mapping[str, tuple[int, int]] | None,
) -> str:
    header = ["domain", "documents", "exact duplicates", "near-duplicates", "kept", "kept share"]
    counts = {name: (documents[name], exact.get(name, 0), near.get(name, 0)) for name in sorted(documents)}
    rows = [_kept_row(literal(name), *count) for name, count in counts.items()]
    rows.append(_kept_row("**all**", *(sum(column) for column in zip(*counts.values(), strict=True))))
    if text_bytes is not None:
        header += ["text MB", "kept MB", "kept share of bytes"]
        sizes = [text_bytes[name] for name in counts]
        sizes.append((sum(whole for whole, _ in sizes), sum(kept for _, kept in sizes)))
        for row, (whole, kept) in zip(rows, sizes, strict=True):
            row += [f"{whole / 1e6:,.1f}", f"{kept / 1e6:,.1f}", f"{_share(kept, whole):.1%}"]
    shares = {name: _share(whole - sum(removed), whole) for name, (whole, *removed) in counts.items()}
    plot = bars(shares, title="Kept share of documents", ylabel="kept / documents")
    return f"{markdown_table(header, rows)}\n\n{plot}"


def _kept_row(name: str, documents: int, exact: int, near: int) -> list[object]:
    kept = documents - exact - near
    return [name, documents, exact, near, kept, f"{_share(kept, documents):.1%}"]


def _who_duplicated_whom(decisions: Mapping[str, pa.Table]) -> str:
    """A heat map of near-duplicates, and one of exact duplicates."""
    domains, matrices = _with_others(*removal_matrix(decisions))
    plots = []
    for reason, matrix in reversed(list(zip(REASONS, matrices, strict=True))):
        name, total = f"{reason.capitalize()}s", matrix.sum()
        if total:
            title = f"{name}: {total:,} removed documents"
            plots.append(heatmap(matrix, domains, title=title, xlabel="survivor in", ylabel="removed from"))
        else:
            plots.append(f"{name}: none.")
    return "\n\n".join(plots)


def _with_others(
    domains: list[str], matrices: npt.NDArray[np.int64]
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The domains with most removals, and the sum of the others, so that a plot stays legible."""
    if len(domains) <= PLOTTED_DOMAINS:
        return domains, matrices
    involved = matrices.sum(axis=(0, 1)) + matrices.sum(axis=(0, 2))
    shown = np.sort(np.argsort(-involved, kind="stable")[:PLOTTED_DOMAINS])
    place = np.full(len(domains), PLOTTED_DOMAINS)
    place[shown] = np.arange(PLOTTED_DOMAINS)
    summed = np.zeros((len(matrices), PLOTTED_DOMAINS + 1, PLOTTED_DOMAINS + 1), np.int64)
    for target, matrix in zip(summed, matrices, strict=True):
        np.add.at(target, (place[:, None], place[None, :]), matrix)
    return [*(domains[index] for index in shown), f"{len(domains) - PLOTTED_DOMAINS} others"], summed


def _duplicates_of_domain(domain: str, decisions: Mapping[str, pa.Table]) -> str:
    """The domain's row of the matrix and, where the decisions of others are at hand, its column."""
    domains, matrices = removal_matrix(decisions)
    place = domains.index(domain)
    legend = f"→ documents of {literal(domain)} that yield to one there"
    header = ["domain", "→ exact", "→ near"]
    columns = [*matrices[:, place]]
    if len(decisions) > 1:
        legend += f"; ← documents there that yield to one of {literal(domain)}"
        header += ["← exact", "← near"]
        columns += [*matrices[:, :, place]]
    rows = [(literal(name), *map(int, row)) for name, *row in zip(domains, *columns, strict=True) if any(row)]
    return f"{legend}\n\n{markdown_table(header, rows)}" if rows else "No duplicates."


def _jaccard_histogram(decisions: pa.Table) -> str:
    near, exact = _because(decisions, NEAR_DUPLICATE), _count(decisions, EXACT_DUPLICATE)
    if not near.num_rows:
        return f"No near-duplicates were removed; {exact:,} exact duplicates were."
    return histogram(
        near["jaccard"].to_numpy(),
        title=f"{near.num_rows:,} near-duplicates; {exact:,} exact duplicates are not shown",
        xlabel="Jaccard to the survivor",
    )


def _clusters(decisions: pa.Table) -> pa.Table:
    """Clusters of two documents or more: cluster_id, and how many of each kind went."""
    gone = decisions.filter(pc.is_valid(decisions["reason"]))
    kinds = pa.table(
        {
            "cluster_id": gone["cluster_id"],
            "exact": pc.equal(gone["reason"], EXACT_DUPLICATE),
            "near": pc.equal(gone["reason"], NEAR_DUPLICATE),
        }
    )
    counted = kinds.group_by("cluster_id").aggregate([("exact", "sum"), ("near", "sum")])
    removed = pc.add(counted["exact_sum"], counted["near_sum"])
    return counted.append_column("documents", pc.add(removed, 1))


def _cluster_sizes(clusters: pa.Table) -> str:
    if not clusters.num_rows:
        return "No document yields to another."
    columns = [clusters[name].to_numpy() for name in ("documents", "exact_sum", "near_sum")]
    bins = np.searchsorted(CLUSTER_SIZES, columns[0], side="right") - 1
    counts = [np.bincount(bins, weights, len(CLUSTER_SIZES)).astype(int) for weights in (None, *columns[1:])]
    rows = [
        (label, *(int(count[place]) for count in counts))
        for place, label in enumerate(_size_labels())
        if counts[0][place]
    ]
    return markdown_table(["documents", "clusters", "exact duplicates", "near-duplicates"], rows)


def _size_labels() -> list[str]:
    ranges = itertools.pairwise(CLUSTER_SIZES)
    labels = [f"{low}" if high == low + 1 else f"{low}–{high - 1}" for low, high in ranges]
    return [*labels, f"{CLUSTER_SIZES[-1]:,} or more"]


def _largest_clusters(clusters: pa.Table) -> str:
    keys = [("documents", "descending"), ("cluster_id", "ascending")]
    if not clusters.num_rows:
        return "No document yields to another."
    largest = clusters.take(pc.select_k_unstable(clusters, LARGEST_CLUSTERS, keys))
    rows = [
        (literal(row["cluster_id"]), row["documents"], row["exact_sum"], row["near_sum"])
        for row in largest.to_pylist()
    ]
    return markdown_table(["survivor", "documents", "exact duplicates", "near-duplicates"], rows)

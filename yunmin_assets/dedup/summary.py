"""What a person wants to see of deduplication: who duplicated whom, how closely, and examples."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.dedup.removal import removal_log
from yunmin_assets.documents import SPLITS
from yunmin_assets.plots import heatmap, histogram, markdown_table

EXAMPLES = 5
EXAMPLE_CHARACTERS = 160
SHOWN_CLUSTER_SIZES = 10


def describe_clusters(decisions: Mapping[str, pa.Table]) -> dict[str, str]:
    """Markdown by name: the domain × domain matrix, the Jaccard histogram, cluster sizes."""
    domains = sorted(decisions)
    removed = pa.concat_tables([table.filter(pc.invert(table["kept"])) for table in decisions.values()])
    sizes = Counter(Counter(removed["cluster_id"].to_pylist()).values())
    rows = [(size + 1, count) for size, count in sorted(sizes.items())[:SHOWN_CLUSTER_SIZES]]
    return {
        "who_duplicated_whom": heatmap(
            removal_matrix(decisions),
            domains,
            title="Removed documents",
            xlabel="survivor in",
            ylabel="removed from",
        ),
        "jaccard_to_survivor": histogram(
            removed["jaccard"].to_numpy(),
            title="Exact Jaccard of removed documents to their survivor",
            xlabel="Jaccard",
        ),
        "cluster_sizes": markdown_table(["documents in the cluster", "clusters"], rows),
    }


def removal_matrix(decisions: Mapping[str, pa.Table]) -> np.ndarray:
    """int64[domains, domains]: documents of the row's domain whose survivor lies in the column's."""
    place = {domain: index for index, domain in enumerate(sorted(decisions))}
    matrix = np.zeros((len(place), len(place)), np.int64)
    for domain, table in decisions.items():
        survivors = table.filter(pc.invert(table["kept"]))["survivor_domain"].to_pylist()
        for survivor, count in Counter(survivors).items():
            matrix[place[domain], place[survivor]] = count
    return matrix


def examples_of_removed(log: pa.Table) -> str:
    """A few near-duplicates from the removal log, from the most to the least similar."""
    order = log.sort_by([("jaccard", "descending")])
    places = np.linspace(0, order.num_rows - 1, min(EXAMPLES, order.num_rows))
    picks = np.unique(places.astype(int))
    rows = [order.slice(int(index), 1).to_pylist()[0] for index in picks]
    cells = [
        (
            row["id"],
            f"{row['survivor_domain']}/{row['survivor_id']}",
            row["jaccard"],
            row["text"][:EXAMPLE_CHARACTERS],
        )
        for row in rows
    ]
    return markdown_table(["removed", "survivor", "Jaccard", "removed text"], cells)


def describe_removal(
    documents: pa.Table, decisions: pa.Table, counts: Mapping[str, int]
) -> tuple[dict[str, int | float], dict[str, str]]:
    """Figures of one domain after deduplication, and Markdown by name."""
    text_bytes = pc.binary_length(documents["text"]).cast(pa.int64())
    bytes_in, bytes_kept = (
        pc.sum(text_bytes).as_py() or 0,
        pc.sum(text_bytes.filter(decisions["kept"])).as_py() or 0,
    )
    log = removal_log(documents, decisions)
    figures: dict[str, int | float] = {
        "documents_in": documents.num_rows,
        "documents": documents.num_rows - counts["removed"],
        "removed_documents": counts["removed"],
        "text_bytes_in": bytes_in,
        "text_bytes": bytes_kept,
        "kept_share_of_bytes": bytes_kept / max(bytes_in, 1),
        **{f"{split}_documents": counts[split] for split in SPLITS},
    }
    rendered = {
        "sample_of_removed": examples_of_removed(log),
        "jaccard_to_survivor": histogram(
            log["jaccard"].to_numpy(), title="Exact Jaccard to the survivor", xlabel="Jaccard"
        ),
    }
    return figures, rendered

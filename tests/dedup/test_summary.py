"""The figures and tables a person sees of deduplication, against numbers counted by hand."""

import base64
import re
import struct
import warnings
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from yunmin_assets.dedup.boilerplate.repeated_paragraphs import BOILERPLATE_ONLY
from yunmin_assets.dedup.removal import DOMAIN_DECISION_SCHEMA, NEAR_DUPLICATE, RemovalCounts
from yunmin_assets.dedup.summary import _with_others, describe_clusters, describe_removal, removal_matrix
from yunmin_assets.documents import EXACT_DUPLICATE
from yunmin_assets.plots import heatmap

EXACT, NEAR = EXACT_DUPLICATE, NEAR_DUPLICATE


def decisions(*rows: tuple[str, str, float, str | None]) -> pa.Table:
    """From (id, domain/id of the survivor, Jaccard, reason)."""
    return pa.Table.from_pylist(
        [
            {
                "id": identifier,
                "kept": reason is None,
                "cluster_id": survivor,
                "survivor_domain": survivor.split("/")[0],
                "survivor_id": survivor.split("/")[1],
                "jaccard": jaccard,
                "reason": reason,
            }
            for identifier, survivor, jaccard, reason in rows
        ],
        DOMAIN_DECISION_SCHEMA,
    )


LAW = decisions(
    ("1", "law/1", 1.0, None),
    ("2", "law/1", 1.0, EXACT),
    ("3", "law/1", 0.9, NEAR),
    ("4", "news/7", 0.8, NEAR),
    ("5", "law/5", 1.0, None),
)
NEWS = decisions(
    ("7", "news/7", 1.0, None),
    ("8", "law/1", 1.0, EXACT),
    ("9", "law/1", 1.0, NEAR),  # the same shingles, another text
    ("10", "tech/1", 0.85, NEAR),
)
TECH = decisions(("1", "tech/1", 1.0, None))
ALL = {"law": LAW, "news": NEWS, "tech": TECH}
DOCUMENTS = {"law": 5, "news": 4, "tech": 1}

FEW = decisions(("1", "law/1", 1.0, None))
NO_PAIRS = pa.table({"id": pa.array([], pa.string())})


def table_of(markdown: str) -> list[list[str]]:
    """The rows below the header of the first table."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def images_of(markdown: str) -> list[tuple[int, int]]:
    """Width and height of every PNG."""
    encoded = re.findall(r"!\[[^\]]*\]\(data:image/png;base64,([^)]*)\)", markdown)
    return [struct.unpack(">II", base64.b64decode(image)[16:24]) for image in encoded]


def test_the_matrix_counts_each_reason_by_domain_and_domain_of_the_survivor() -> None:
    domains, matrix = removal_matrix(ALL)
    assert domains == ["law", "news", "tech"]
    assert matrix.tolist() == [
        [[1, 0, 0], [1, 0, 0], [0, 0, 0]],  # exact duplicates
        [[1, 1, 0], [1, 0, 1], [0, 0, 0]],  # near-duplicates
    ]


def test_figures_over_all_domains_count_exact_duplicates_apart() -> None:
    figures, _ = describe_clusters(ALL, DOCUMENTS)
    assert figures == {
        "documents": 10,
        "kept": 4,
        "removed": 6,
        "exact_duplicates": 2,
        "near_duplicates": 4,
        "kept_share_of_documents": 0.4,
        "clusters": 3,
    }


def test_rows_about_kept_documents_are_not_needed() -> None:
    removed = {domain: table.filter(pc.invert(table["kept"])) for domain, table in ALL.items()}
    assert describe_clusters(removed, DOCUMENTS) == describe_clusters(ALL, DOCUMENTS)


def test_every_domain_has_its_kept_share_of_documents_and_bytes() -> None:
    _, rendered = describe_clusters(
        ALL, DOCUMENTS, {"law": (4_000_000, 1_000_000), "news": (1_000_000, 500_000), "tech": (0, 0)}
    )
    assert table_of(rendered["kept_by_domain"]) == [
        ["`law`", "5", "1", "2", "2", "40.0%", "4.0", "1.0", "25.0%"],
        ["`news`", "4", "1", "2", "1", "25.0%", "1.0", "0.5", "50.0%"],
        ["`tech`", "1", "0", "0", "1", "100.0%", "0.0", "0.0", "0.0%"],
        ["**all**", "10", "2", "4", "4", "40.0%", "5.0", "1.5", "30.0%"],
    ]
    assert len(images_of(rendered["kept_by_domain"])) == 1


def test_without_bytes_the_table_has_documents_only() -> None:
    _, rendered = describe_clusters(ALL, DOCUMENTS)
    assert table_of(rendered["kept_by_domain"])[0] == ["`law`", "5", "1", "2", "2", "40.0%"]


def test_clusters_are_counted_by_size_and_the_largest_are_named() -> None:
    _, rendered = describe_clusters(ALL, DOCUMENTS)
    assert table_of(rendered["cluster_sizes"]) == [["2", "2", "0", "2"], ["5–9", "1", "2", "2"]]
    assert table_of(rendered["largest_clusters"]) == [
        ["`law/1`", "5", "2", "2"],
        ["`news/7`", "2", "0", "1"],
        ["`tech/1`", "2", "0", "1"],
    ]


def test_long_tails_of_cluster_sizes_are_binned() -> None:
    sizes = [2, 2, 3, 4, 5, 9, 10, 99, 100, 999, 1000, 1500]
    rows = [
        (f"{cluster}-{number}", f"law/{cluster}", 0.9, NEAR)
        for cluster, size in enumerate(sizes)
        for number in range(size - 1)
    ]
    _, rendered = describe_clusters({"law": decisions(*rows)}, {"law": sum(sizes)})
    assert [row[:2] for row in table_of(rendered["cluster_sizes"])] == [
        ["2", "2"],
        ["3", "1"],
        ["4", "1"],
        ["5–9", "2"],
        ["10–99", "2"],
        ["100–999", "2"],
        ["1,000 or more", "2"],
    ]
    largest = table_of(rendered["largest_clusters"])
    assert [row[1] for row in largest] == ["1,500", "1,000", "999", "100", "99", "10", "9", "5", "4", "3"]
    assert largest[0] == ["`law/11`", "1,500", "0", "1,499"]


def test_plots_say_how_many_of_each_kind_they_show() -> None:
    _, rendered = describe_clusters(ALL, DOCUMENTS)
    matrices, histogram = rendered["who_duplicated_whom"], rendered["jaccard_to_survivor"]
    assert "Near-duplicates: 4 removed documents" in matrices
    assert "Exact duplicates: 2 removed documents" in matrices
    assert "4 near-duplicates; 2 exact duplicates are not shown" in histogram
    assert (len(images_of(matrices)), len(images_of(histogram))) == (2, 1)


def test_where_nothing_was_removed_sentences_say_so() -> None:
    figures, rendered = describe_clusters({"law": FEW}, {"law": 1})
    assert (figures["removed"], figures["kept_share_of_documents"]) == (0, 1.0)
    assert rendered["who_duplicated_whom"] == "Near-duplicates: none.\n\nExact duplicates: none."
    assert rendered["jaccard_to_survivor"] == "No near-duplicates were removed; 0 exact duplicates were."
    assert rendered["cluster_sizes"] == rendered["largest_clusters"] == "No document yields to another."


def test_an_identifier_cannot_break_a_table() -> None:
    _, rendered = describe_clusters({"law": decisions(("1", "law/<b>|`x`", 0.9, NEAR))}, {"law": 2})
    assert "| `law/<b>`&#124;&#96;`x`&#96; | 2 | 0 | 1 |" in rendered["largest_clusters"]


COUNTS = RemovalCounts(
    documents_in=5,
    text_bytes_in=1000,
    text_bytes=300,
    splits=Counter(train=1),
    removed=Counter({EXACT: 1, NEAR: 2, BOILERPLATE_ONLY: 1}),
    documents_shortened=1,
)


def test_figures_of_one_domain_add_up() -> None:
    figures, _ = describe_removal("law", ALL, COUNTS, NO_PAIRS)
    assert figures == {
        "documents_in": 5,
        "documents": 1,
        "removed_documents": 4,
        "exact_duplicates": 1,
        "near_duplicates": 2,
        "boilerplate_only": 1,
        "documents_shortened": 1,
        "boilerplate_paragraphs_taken_out": 0,
        "boilerplate_bytes_taken_out": 0,
        "kept_share_of_documents": 0.2,
        "text_bytes_in": 1000,
        "text_bytes": 300,
        "kept_share_of_bytes": 0.3,
        "train_documents": 1,
        "validation_documents": 0,
        "test_documents": 0,
    }


def test_an_empty_domain_has_figures_too() -> None:
    figures, rendered = describe_removal("law", {"law": FEW.slice(0, 0)}, RemovalCounts(), NO_PAIRS)
    assert set(figures.values()) == {0}
    assert rendered["duplicates_of_this_domain"] == "No duplicates."


def test_a_domain_shows_its_row_and_its_column_of_the_matrix() -> None:
    _, rendered = describe_removal("law", ALL, COUNTS, NO_PAIRS)
    assert table_of(rendered["duplicates_of_this_domain"]) == [
        ["`law`", "1", "1", "1", "1"],
        ["`news`", "0", "1", "1", "1"],
    ]


def test_without_the_decisions_of_others_there_is_only_the_row() -> None:
    _, rendered = describe_removal("news", {"news": NEWS}, COUNTS, NO_PAIRS)
    assert table_of(rendered["duplicates_of_this_domain"]) == [["`law`", "1", "1"], ["`tech`", "0", "1"]]
    assert "←" not in rendered["duplicates_of_this_domain"]


def test_the_histogram_of_a_domain_is_about_that_domain_and_its_examples_are_beside_it() -> None:
    pairs = pa.Table.from_pylist(
        [
            {
                "id": "3",
                "survivor_domain": "law",
                "survivor_id": "1",
                "jaccard": 0.9,
                "text": "하나 둘",
                "survivor_text": "하나 셋",
            }
        ]
    )
    _, rendered = describe_removal("law", ALL, COUNTS, pairs)
    assert "2 near-duplicates; 1 exact duplicates are not shown" in rendered["jaccard_to_survivor"]
    assert "**⟦`둘`⟧**" in rendered["sample_of_removed"]


@pytest.mark.parametrize("count", [1, 4, 9, 20])
def test_a_heat_map_has_room_for_every_domain_however_long_its_name(count: int) -> None:
    names = [f"{'very_' * number}long_name_{number}" for number in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where its layout does not fit
        ((width, height),) = images_of(
            heatmap(np.eye(count, dtype=np.int64) * 1_234_567, names, title="x", xlabel="x", ylabel="y")
        )
    assert width >= 55 * count and height >= 45 * count


def test_the_same_decisions_are_described_in_the_same_bytes() -> None:
    assert describe_clusters(ALL, DOCUMENTS) == describe_clusters(ALL, DOCUMENTS)


def test_many_domains_are_plotted_as_the_busiest_and_the_others() -> None:
    names = [f"d{number:02d}" for number in range(30)]
    matrices = np.zeros((2, 30, 30), np.int64)
    matrices[1, 3, 7], matrices[0, 29, 28], matrices[1, 4, 4] = 5, 2, 1
    shown, summed = _with_others(names, matrices)
    assert len(shown) == 21 and shown[-1] == "10 others"
    assert {"d03", "d07", "d28", "d29", "d04"} <= set(shown)
    assert summed.sum() == matrices.sum()
    assert summed[1, shown.index("d03"), shown.index("d07")] == 5

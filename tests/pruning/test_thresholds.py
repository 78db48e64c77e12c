"""Cuts: the same in memory and over files, exact at ties, and a domain's own unless they are global."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yunmin_assets.pruning import PruningConfig
from yunmin_assets.pruning.selection import Cut, ScoreFile, ScoreTable, find_cuts, is_kept, removal_reasons
from yunmin_assets.pruning.shares import measure_domains

CRITERIA = ["low", "medium", "high", "random", "none"]
PERPLEXITIES = st.none() | st.floats(1, 1e6) | st.sampled_from([2.0, 3.0])
DOMAINS = st.dictionaries(
    st.sampled_from(["law", "news", "tech"]), st.lists(PERPLEXITIES, max_size=25), min_size=1
)


def table(perplexities: list[float | None]) -> pa.Table:
    """Ids in another order than rows, and the same in every domain."""
    ids = [f"d{(number * 7) % 26:02}" for number in range(len(perplexities))]
    return pa.table({"id": ids, "perplexity": pa.array(perplexities, pa.float64())})


def kept_of(tables: dict[str, pa.Table], config: PruningConfig) -> dict[str, set[str]]:
    cuts = find_cuts({name: ScoreTable(own) for name, own in tables.items()}, config)
    return {
        name: set(own["id"].filter(pa.array(is_kept(own, cuts[name]))).to_pylist())
        for name, own in tables.items()
    }


@given(
    domains=DOMAINS,
    criterion=st.sampled_from(["low", "medium", "high"]),
    rate=st.floats(0.01, 1),
)
def test_global_thresholds_keep_a_stretch_of_all_documents_in_one_order(
    domains: dict[str, list[float | None]], criterion: str, rate: float
) -> None:
    tables = {name: table(values) for name, values in domains.items()}
    everything = sorted(
        (row["perplexity"], row["id"], name)
        for name, own in tables.items()
        for row in own.to_pylist()
        if row["perplexity"] is not None
    )
    count = min(len(everything), max(1, int(rate * len(everything) + 0.5)))
    first = {"low": 0, "medium": (len(everything) - count) // 2, "high": len(everything) - count}[criterion]
    expected = {name: set() for name in tables}
    for _, identifier, name in everything[first : first + count]:
        expected[name].add(identifier)
    config = PruningConfig(criterion=criterion, selection_rate=rate, thresholds="global")
    assert kept_of(tables, config) == expected


@given(
    domains=DOMAINS, criterion=st.sampled_from(CRITERIA), thresholds=st.sampled_from(["per_domain", "global"])
)
def test_every_document_is_kept_or_removed_for_one_reason_and_the_cut_says_how_many(
    domains: dict[str, list[float | None]], criterion: str, thresholds: str
) -> None:
    config = PruningConfig(criterion=criterion, thresholds=thresholds)
    tables = {name: table(values) for name, values in domains.items()}
    cuts = find_cuts({name: ScoreTable(own) for name, own in tables.items()}, config)
    for name, own in tables.items():
        stored = Cut.model_validate_json(cuts[name].model_dump_json())
        assert stored == cuts[name]
        kept, reasons = is_kept(own, stored), removal_reasons(own, stored).to_pylist()
        assert stored.kept == kept.sum() == reasons.count(None)
        assert stored.scored == sum(value is not None for value in domains[name])
        for value, reason, is_in in zip(domains[name], reasons, kept, strict=True):
            assert is_in == (reason is None)
            assert is_in or reason == ("no tokens" if value is None else f"outside the {criterion} part")


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("thresholds", ["per_domain", "global"])
def test_files_are_cut_like_tables_and_measured_by_what_the_cut_keeps(
    tmp_path: Path, criterion: str, thresholds: str
) -> None:
    random = np.random.default_rng(3)
    tables, files = {}, {}
    for name, count in (("law", 300), ("news", 40), ("empty", 0)):
        values = random.integers(1, 30, count).astype(float)  # many ties
        tables[name] = pa.table(
            {
                "id": random.permutation([f"{name}-{number}" for number in range(count)]).astype(str),
                "perplexity": pa.array(values, mask=values == 7),
                "n_bytes": random.integers(1, 90, count),
                "n_tokens": random.integers(1, 30, count),
            }
        )
        files[name] = tmp_path / f"{name}.parquet"
        pq.write_table(tables[name], files[name], row_group_size=37)
    config = PruningConfig(criterion=criterion, selection_rate=0.3, thresholds=thresholds)
    cuts = find_cuts({name: ScoreFile(path) for name, path in files.items()}, config)
    assert cuts == find_cuts({name: ScoreTable(own) for name, own in tables.items()}, config)
    for name, size in measure_domains(files, cuts).items():
        kept = is_kept(tables[name], cuts[name])
        n_bytes, n_tokens = (tables[name][column].to_numpy() for column in ("n_bytes", "n_tokens"))
        assert size.before.tolist() == [len(kept), n_bytes.sum(), n_tokens.sum()]
        assert size.after.tolist() == [kept.sum(), n_bytes[kept].sum(), n_tokens[kept].sum()]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_domains_own_cut_does_not_depend_on_other_domains(criterion: str) -> None:
    config = PruningConfig(criterion=criterion)
    law, news = ScoreTable(table([5.0, 2.0, 9.0, 2.0])), ScoreTable(table([1.0, 100.0]))
    assert find_cuts({"law": law}, config)["law"] == find_cuts({"law": law, "news": news}, config)["law"]


def test_a_global_cut_that_moves_between_documents_leaves_a_domains_cut_as_it_was() -> None:
    config = PruningConfig(criterion="low", thresholds="global")
    law, news = table([1.0, 2.0, 50.0, 60.0]), table([3.0, 4.0])
    more_news = table([3.0, 4.0, 5.0, 70.0])
    before, after = (
        find_cuts({"law": ScoreTable(law), "news": ScoreTable(other)}, config) for other in (news, more_news)
    )
    assert before["law"] == after["law"]
    assert before["news"] != after["news"]


def test_a_domain_without_a_document_inside_the_global_cut_keeps_nothing() -> None:
    config = PruningConfig(criterion="low", thresholds="global")
    cuts = find_cuts({"law": ScoreTable(table([1.0, 2.0])), "chat": ScoreTable(table([8.0, 9.0]))}, config)
    assert cuts["chat"].kept == 0 and cuts["chat"].lowest is None
    assert not is_kept(table([8.0, 9.0]), cuts["chat"]).any()


def test_an_infinite_perplexity_names_the_document_and_the_domain() -> None:
    scores = {"law": ScoreTable(table([1.0])), "news": ScoreTable(table([2.0, float("inf")]))}
    with pytest.raises(ValueError, match="document 'd07' of news has perplexity inf"):
        find_cuts(scores, PruningConfig(thresholds="global"))

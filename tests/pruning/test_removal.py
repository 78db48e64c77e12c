"""Kept and removed documents make up the domain, and a person sees some of each band."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pruning.toy_corpus import toy_documents, write_small_row_groups
from yunmin_assets.pruning import PruningConfig
from yunmin_assets.pruning.removal import prune_documents
from yunmin_assets.pruning.scoring import SCORE_SCHEMA
from yunmin_assets.pruning.selection import ScoreFile, find_cuts
from yunmin_assets.pruning.shares import measure_domains
from yunmin_assets.pruning.summary import describe_scores, describe_selection, describe_thresholds

COUNT = 90


def write_scores(documents: pa.Table, path: Path, perplexities: np.ndarray) -> Path:
    empty = np.array([text == "" for text in documents["text"].to_pylist()])
    n_tokens = np.where(empty, 0, 3)
    columns = {
        "id": documents["id"],
        "n_tokens": n_tokens,
        "n_bytes": [len(text.encode()) for text in documents["text"].to_pylist()],
        "n_scored": n_tokens,
        "nll": np.where(empty, 0, np.log(perplexities) * 3),
        "perplexity": pa.array(perplexities, mask=empty),
        "bits_per_byte": pa.array(perplexities / 100, mask=empty),
    }
    pq.write_table(pa.table(columns, schema=SCORE_SCHEMA), path, row_group_size=13)
    return path


@pytest.fixture
def domain(tmp_path: Path) -> tuple[pa.Table, Path, Path]:
    """Documents of rising perplexity, the file they are in, and their scores'."""
    documents = toy_documents(COUNT)
    path = write_small_row_groups(documents, tmp_path / "documents.parquet")
    return documents, path, write_scores(documents, tmp_path / "scores.parquet", np.arange(1.0, COUNT + 1))


@pytest.mark.parametrize("criterion", ["low", "medium", "high", "random", "none"])
def test_nothing_is_lost_and_every_removal_has_its_reason(
    domain: tuple[pa.Table, Path, Path], tmp_path: Path, criterion: str
) -> None:
    documents, path, scores = domain
    cut = find_cuts({"law": ScoreFile(scores)}, PruningConfig(criterion=criterion))["law"]
    counts = prune_documents(path, scores, cut, tmp_path / "out")
    kept, removed = (pq.read_table(tmp_path / "out" / name) for name in ("train.parquet", "removed.parquet"))
    assert kept.schema.equals(documents.schema)
    assert kept.equals(documents.filter(pa.array(counts.kept)))
    assert sorted(kept["id"].to_pylist() + removed["id"].to_pylist()) == sorted(documents["id"].to_pylist())
    assert counts.documents == kept.num_rows == cut.kept
    assert sum(counts.removed.values()) == removed.num_rows == COUNT - kept.num_rows
    assert dict(counts.removed) == {
        reason: removed["reason"].to_pylist().count(reason) for reason in set(removed["reason"].to_pylist())
    }
    if criterion != "none":
        assert counts.removed["no tokens"] == COUNT // 11
        assert counts.tokens == 3 * kept.num_rows
    assert counts.text_bytes == sum(len(text.encode()) for text in kept["text"].to_pylist())
    texts = dict(zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True))
    assert [texts[name] for name in removed["id"].to_pylist()] == removed["text"].to_pylist()


def test_scores_of_other_documents_are_refused(domain: tuple[pa.Table, Path, Path], tmp_path: Path) -> None:
    documents, _, scores = domain
    cut = find_cuts({"law": ScoreFile(scores)}, PruningConfig())["law"]
    order = [1, 0, *range(2, COUNT)]
    for other in (documents.slice(1), documents.take(order)):
        path = write_small_row_groups(other, tmp_path / "other.parquet")
        with pytest.raises(ValueError, match="materialize perplexity again"):
            prune_documents(path, scores, cut, tmp_path / "out")


def test_examples_show_kept_and_removed_documents_of_each_band(
    domain: tuple[pa.Table, Path, Path], tmp_path: Path
) -> None:
    _, path, scores = domain
    cut = find_cuts({"law": ScoreFile(scores)}, PruningConfig())["law"]
    counts = prune_documents(path, scores, cut, tmp_path / "out")
    figures, rendered = describe_selection(path, scores, cut, counts)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in rendered["examples"].splitlines()[2:]
    ]
    assert {(band, state) for band, _, _, state, _, _ in rows} == {
        ("low", "removed"),
        ("low", "kept"),
        ("medium", "kept"),
        ("high", "kept"),
        ("high", "removed"),
    }
    perplexities = [float(row[1]) for row in rows]
    assert perplexities == sorted(perplexities) and perplexities[0] == 1 and perplexities[-1] >= COUNT - 1
    for _, value, _, state, identifier, text in rows:
        assert identifier == f"`law-{int(float(value)) - 1}`"
        assert (cut.lowest.key <= float(value) <= cut.highest.key) == (state == "kept")
        assert any(word in text for word in ("국민", "법원"))
    assert figures["documents"] + figures["removed_documents"] == figures["documents_in"] == COUNT
    assert (figures["perplexity lowest kept"], figures["perplexity highest kept"]) == (
        cut.lowest.key,
        cut.highest.key,
    )
    assert rendered["distribution"].startswith("![Perplexity, criterion medium](data:image/png")


def test_figures_of_the_scores_are_those_of_all_tokens(domain: tuple[pa.Table, Path, Path]) -> None:
    _, path, scores = domain
    figures, rendered, not_finite = describe_scores(scores, path)
    table = pq.read_table(scores)
    total = table["nll"].to_numpy().sum()
    assert figures["perplexity_of_all_tokens"] == pytest.approx(np.exp(total / figures["tokens"]))
    assert figures["bits_per_byte"] == pytest.approx(total / np.log(2) / table["n_bytes"].to_numpy().sum())
    assert figures["documents_without_tokens"] == COUNT // 11
    assert not_finite == []
    assert len(rendered["examples"].splitlines()) == 2 + 3 * 3


def test_a_domain_without_a_token_has_figures_that_are_valid_json(tmp_path: Path) -> None:
    documents = toy_documents(11).slice(10)
    path = write_small_row_groups(documents, tmp_path / "documents.parquet")
    figures, _, _ = describe_scores(write_scores(documents, tmp_path / "scores.parquet", np.ones(1)), path)
    assert figures["documents_without_tokens"] == 1 and "median_perplexity" not in figures
    json.dumps(figures, allow_nan=False)


def test_domain_shares_before_and_after_stand_side_by_side(tmp_path: Path) -> None:
    scores = {}
    for name, low, high in (("law", 1.0, 50.0), ("food", 100.0, 200.0)):
        documents = toy_documents(40, name)
        scores[name] = write_scores(documents, tmp_path / f"{name}.parquet", np.linspace(low, high, 40))
    cuts = find_cuts(
        {name: ScoreFile(path) for name, path in scores.items()},
        PruningConfig(criterion="low", selection_rate=0.75, thresholds="global"),
    )
    figures, rendered = describe_thresholds(scores, cuts, measure_domains(scores, cuts))
    scored = 2 * (40 - 3)
    assert figures["documents_before"] == 80
    assert figures["documents"] == round(0.75 * scored + 0.01)
    lines = {
        line.split("|")[1].strip(): line for line in rendered["domain_shares"].splitlines() if "%" in line
    }
    assert list(lines) == ["`food`", "`law`", "**all**"]
    food = figures["documents"] - 37
    assert f"| 40 (50.0%) | {food} ({food / figures['documents']:.1%}) |" in lines["`food`"]
    assert "| 80 (100.0%) |" in lines["**all**"]
    assert rendered["distributions"].count("![") == 2
    assert "| `law` | 37 | 37 | 1 |" in rendered["cuts"]

"""The benchmark of scoring: every tool scores the same tokens, and what is claimed is computed from what ran."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scoring import comparison_table, main, rank_correlation, same_half_kept, targets_table
from benchmarks.scoring_child import padding_factor
from benchmarks.scoring_data import read_corpus, sample_documents
from yunmin_assets.pruning.windows import Window

DOCUMENTS = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic documents as a JSONL file."""
    path = tmp_path_factory.mktemp("corpus") / "toy.jsonl"
    rows = sample_documents(DOCUMENTS).to_pylist()
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_all_tools_agree_on_every_document(corpus: Path, tmp_path: Path) -> None:
    tools = "ours,random-16,one-by-one,first-128"
    sizes = ["--hidden-size", "16", "--layers", "1", "--vocab-size", "400", "--max-length", "256"]
    options = ["--corpus", str(corpus), "--tools", tools, "--repeat", "1", "--json", str(tmp_path / "lines")]
    main([*options, *sizes])
    reports = {line["tool"]: line for line in map(json.loads, (tmp_path / "lines").read_text().splitlines())}
    assert list(reports) == tools.split(",")
    assert {report["documents"] for report in reports.values()} == {DOCUMENTS}
    assert len({report["tokens"] for report in reports.values()}) == 1
    for tool in ("ours", "random-16"):
        assert reports[tool]["largest_difference_per_token"] < 1e-5
        assert reports[tool]["rank_correlation"] > 0.999
    assert (
        reports["one-by-one"]["padding"] == 1 <= reports["ours"]["padding"] < reports["random-16"]["padding"]
    )
    assert reports["first-128"]["largest_difference_per_token"] > 1e-4
    for report in reports.values():
        assert report["cpu_s"] > 0
        assert report["tokens_per_cpu_s"] == report["tokens"] / report["cpu_s"]


def test_documents_come_from_all_over_the_corpus(corpus: Path) -> None:
    everything = read_corpus(corpus, 10_000)
    assert everything.num_rows == DOCUMENTS
    few = read_corpus(corpus, 3)["id"].to_pylist()
    assert few == [everything["id"][row].as_py() for row in (0, 19, DOCUMENTS - 1)]


def test_padding_is_counted_in_positions() -> None:
    batches = [[Window(0, 0, 10, 0), Window(1, 0, 5, 0)], [Window(2, 0, 5, 2)]]
    assert padding_factor(batches) == (20 + 5) / 20


def test_agreement_of_ranks_and_of_the_kept_half() -> None:
    rising = np.arange(8.0)
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)
    assert same_half_kept(rising, -rising) == 1
    moved = np.array([3.5, 1, 2, 3, 4, 5, 6, 7])  # 0 comes between 3 and 4, so 2 leaves the middle half
    assert same_half_kept(rising, moved) == 3 / 4


def test_targets_say_what_was_not_reached() -> None:
    common = {
        "corpus": "toy",
        "documents": 1,
        "tokens": 1,
        "hidden_size": 8,
        "layers": 1,
        "vocab_size": 9,
        "steps": 0,
    }
    costs = {
        "cpu_s_median": 1.0,
        "tokens_per_cpu_s": 1.0,
        "peak_rss_mb": 1.0,
        "rss_before_mb": 1.0,
        "about": "it",
    }
    scores = {"rank_correlation": 1.0, "same_half_kept": 1.0}
    reports = [
        common
        | costs
        | scores
        | {"tool": tool, "cpu_s": cpu, "padding": 1.2, "largest_difference_per_token": 2e-6}
        for tool, cpu in (("ours", 1.0), ("random-16", 5.0), ("one-by-one", 3.0))
    ]
    verdicts = [line.split("|")[4].strip() for line in targets_table(reports).splitlines()[2:]]
    assert verdicts == ["NOT REACHED", "reached", "reached"]
    assert "| random-16  |    5.00 (1.00) |    5.0× |" in comparison_table(reports)


def test_an_unknown_tool_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tools", "ours,magic"])
    assert "unknown magic: choose among ours" in capsys.readouterr().err

"""The benchmark of weight searches: every model is measured and its tokens counted, on documents of their own."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.weight_search import comparison_table, main, targets_table
from benchmarks.weight_search_data import read_domains, split_documents, without_duplicates
from yunmin_assets.corpus.sample import write_sample_corpus

TINY = {"documents": 60, "trials": 8, "search-rows": 6, "few-rows": 2, "comparison-rows": 6, "test-rows": 8}
TINY |= {
    "vocab-size": 400,
    "hidden-size": 16,
    "layers": 1,
    "seq-len": 64,
    "base-steps": 4,
    "adapter-steps": 4,
}
TINY |= {"rank": 2}
DOMAINS = ["korean_textbook", "papers_data", "social_media_data"]


def report(model: str, tokens: int, comparison: float, test: float) -> dict:
    return {
        "model": model,
        "search_rows": 64,
        "search_loss": 5.0,
        "comparison_loss": comparison,
        "test_loss": test,
        "training_tokens": 1000,
        "search_tokens": tokens,
        "search_cpu_s": 1.0,
        "cpu_s": 2.0,
        "weights": {"law": 1.0},
    }


def test_every_method_and_control_is_measured_and_counted(tmp_path: Path) -> None:
    sizes = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    write_sample_corpus(tmp_path / "corpus", documents_per_domain=100)
    options = ["--corpus", str(tmp_path / "corpus"), "--methods", "gradient,grid"]
    main([*sizes, *options, "--json", str(tmp_path / "lines")])
    lines = {line["model"]: line for line in map(json.loads, (tmp_path / "lines").read_text().splitlines())}
    single = next(name for name in lines if name.startswith("only "))
    assert list(lines) == [
        *("base", "uniform", single, "gradient", "grid"),
        *("joint", "lora on validation"),
    ]
    trained = 4 * 8 * 64  # steps · rows · tokens of an adapter
    tokens = {name: (line["training_tokens"], line["search_tokens"]) for name, line in lines.items()}
    assert tokens["base"] == (0, 0)
    assert tokens["uniform"] == (3 * trained, 0)
    assert tokens[single] == (trained, 0)
    assert tokens["grid"] == (3 * trained, 8 * 3 * 6 * 64)
    assert tokens["gradient"] == (3 * trained, 40 * 3 * 4 * 64)
    assert tokens["joint"] == (3 * trained, 0)
    assert tokens["lora on validation"][0] >= tokens["gradient"][1]
    assert set(lines["grid"]["weights"]) == set(DOMAINS)
    assert all(line["test_loss"] > 0 for line in lines.values())
    assert lines["grid"]["search_loss"] <= lines["base"]["search_loss"]  # 0, 0, 0 is a point of the grid


def test_documents_are_split_whole_and_near_duplicates_leave_first() -> None:
    texts = [
        f"{word} 문장은 다른 문장과 닮은 데가 별로 없는 {word} 이야기이다. {word * 9}"
        for word in "가나다라마바사아자차카타"
    ]
    kept = without_duplicates(
        {"law": texts, "news": [f"{texts[0]}!", "이것은 어디에도 없는 아주 새로운 글이다."]}
    )
    assert sum(map(len, kept.values())) == len(texts) + 1
    splits = split_documents([str(number) for number in range(10)])
    assert splits == {"train": ["2", "3", "4", "7", "8", "9"], "validation": ["0", "5"], "test": ["1", "6"]}


def test_texts_are_read_from_lines_and_tables_and_a_missing_domain_is_named(tmp_path: Path) -> None:
    lines = ['{"text": "하나"}', "broken", '{"text": ""}', '{"text": "둘"}', '{"text": "셋"}']
    (tmp_path / "law.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pq.write_table(pa.table({"text": ["넷", None, "다섯"]}), tmp_path / "news.parquet")
    assert read_domains(tmp_path, ["law", "news"], 2) == {"law": ["하나", "둘"], "news": ["넷", "다섯"]}
    with pytest.raises(FileNotFoundError, match="holds no tech"):
        read_domains(tmp_path, ["tech"], 2)


def test_targets_say_what_was_not_reached() -> None:
    reports = [report("gradient", 26, 4.9, 5.2), report("grid", 100, 5.0, 5.1)]
    verdicts = [line.split("|")[4].strip() for line in targets_table(reports).splitlines()[2:]]
    assert verdicts == ["NOT REACHED", "reached", "NOT REACHED"]
    assert "| 26.0% |" in " ".join(comparison_table(reports).split())


def test_an_unknown_method_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--methods", "gradient,magic"])
    assert "unknown magic: choose among" in capsys.readouterr().err

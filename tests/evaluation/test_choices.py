"""Benchmarks become rows: every model on every benchmark, against the base on the same items."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.evaluation.tiny_benchmarks import ROWS, write_benchmarks, write_rows
from tests.evaluation.tiny_models import save_broken_model, save_twins
from yunmin_assets.documents import DOCUMENT_SCHEMA, write_documents
from yunmin_assets.evaluation.choices import (
    ANSWERS_FILE,
    ANSWERS_SCHEMA,
    EXCERPT_CHARACTERS,
    WORST_KEPT,
    answer_benchmarks,
    contamination_rows,
    read_benchmarks,
    write_answers,
)
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.model import ContaminatedRow

CONFIG = EvaluationConfig(benchmark_items=2)


def test_an_identical_model_is_not_shown_to_differ_on_any_benchmark(tmp_path: Path) -> None:
    benchmarks = read_benchmarks(write_benchmarks(tmp_path / "benchmarks"))
    rows, _ = answer_benchmarks(save_twins(tmp_path), benchmarks, CONFIG)
    assert [(row.benchmark, row.model) for row in rows] == [
        (f"{task}_tiny", model) for task in sorted(ROWS) for model in ("base", "merged")
    ]
    for base, merged in zip(rows[::2], rows[1::2], strict=True):
        assert base.against_base is None
        against = merged.against_base
        assert against is not None
        assert (against.difference, against.p_value, against.verdict) == (0.0, 1.0, "not shown")
        assert against.low < 0 < against.high
        assert merged.model_dump(exclude={"model", "against_base"}) == base.model_dump(
            exclude={"model", "against_base"}
        )
        assert base.low <= base.accuracy <= base.high


def test_a_broken_model_answers_nothing_and_every_item_says_why(tmp_path: Path) -> None:
    write_rows(tmp_path / "kobest_boolq.jsonl", ROWS["kobest_boolq"])
    models = {"base": save_twins(tmp_path)["base"], "merged": save_broken_model(tmp_path / "broken")}
    (base, merged), answers = answer_benchmarks(models, read_benchmarks(tmp_path), CONFIG)
    assert base.unanswered == ()
    assert (merged.items, merged.items_in_file, merged.accuracy) == (2, 3, 0.0)
    assert len(merged.unanswered) == 2
    for reason in merged.unanswered:
        assert re.fullmatch(r"item [123]: the log-likelihood of choice 1 is nan", reason)
    assert [row["correct"] for row in answers.to_pylist() if row["model"] == "merged"] == [False, False]


def test_every_answer_is_told_by_model_and_item(tmp_path: Path) -> None:
    benchmarks = read_benchmarks(write_benchmarks(tmp_path / "benchmarks"))
    rows, answers = answer_benchmarks(save_twins(tmp_path), benchmarks, CONFIG)
    assert answers.schema == ANSWERS_SCHEMA
    told = answers.to_pylist()
    for row in rows:
        of_row = [each for each in told if (each["benchmark"], each["model"]) == (row.benchmark, row.model)]
        assert sum(each["correct"] for each in of_row) / row.items == row.accuracy
        assert len({each["item"] for each in of_row}) == len(of_row) == row.items
    by_model = [[each["item"] for each in told if each["model"] == name] for name in ("base", "merged")]
    assert by_model[0] == by_model[1]
    write_answers(answers, tmp_path)
    assert pq.read_table(tmp_path / ANSWERS_FILE).equals(answers)


def test_items_that_cannot_be_asked_are_all_named_with_place_and_reason(tmp_path: Path) -> None:
    good = ROWS["kobest_boolq"][:2]
    bad = [good[0] | {"Question": f"{number}?", "Answer": "perhaps"} for number in range(25)]
    write_rows(tmp_path / "kobest_boolq.jsonl", [*good, good[0], *bad])
    (row,), _ = answer_benchmarks({"base": save_twins(tmp_path)["base"]}, read_benchmarks(tmp_path), CONFIG)
    assert (row.items, row.items_in_file, len(row.left_out)) == (2, 28, 26)
    assert row.left_out[0] == "item 3: the same question as item 1"
    assert all(re.match(rf"item {4 + n}: Answer is 'perhaps'", row.left_out[1 + n]) for n in range(25))


def test_a_folder_without_benchmarks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text("{}\n")
    lines: list[str] = []
    with pytest.raises(ValueError, match="holds no benchmark: name files after their task"):
        read_benchmarks(tmp_path, log=lines.append)
    assert lines[0].endswith("notes.jsonl")
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        read_benchmarks(tmp_path / "absent")


def test_contamination_is_told_per_set_with_the_worst_item_first(tmp_path: Path) -> None:
    known = "세종대왕이 훈민정음을 반포한 해는 언제인가"
    document = {"id": "law-7", "text": f"다음 물음에 답하라. {known}? 쓰라.", "domain": "law"}
    write_documents(pa.Table.from_pylist([document], DOCUMENT_SCHEMA), tmp_path / "train.parquet")
    mixed = f"{known[:16]} 하고 나서 사람들은 저마다 다른 이야기를 길게 늘어놓았다"
    sets = {
        "asked": [
            ("mixed", mixed),
            ("whole", known),
            ("new", "비가 오는 날에는 우산을 들고 나간다"),
            ("short", "봄"),
        ],
        "short": [("a", "봄")],
    }
    asked, short = contamination_rows(sets, [tmp_path / "train.parquet"], EvaluationConfig())
    assert (asked.name, asked.ngram, asked.items, asked.too_short) == ("asked", 13, 3, 1)
    assert asked.too_short_items == ("short",)
    assert asked.any_share == pytest.approx(2 / 3)
    assert asked.mostly_share == pytest.approx(1 / 3)
    assert [item.item for item in asked.worst] == ["whole", "mixed"]
    assert asked.worst[0] == ContaminatedRow(
        item="whole", share=1.0, domain="law", document="law-7", excerpt=known
    )
    assert (short.items, short.too_short, short.any_share, short.mostly_share) == (0, 1, None, None)


def test_every_item_that_is_mostly_found_is_named_and_a_few_of_the_others(tmp_path: Path) -> None:
    leaks = [f"{number}번 문항은 훈련 자료에 그대로 들어 있다. " * 20 for number in range(WORST_KEPT + 3)]
    partly = [leak[:19] + f" {number} 나머지는 어디에도 없는 말이다" * 9 for number, leak in enumerate(leaks)]
    documents = [{"id": str(n), "text": leak, "domain": "law"} for n, leak in enumerate(leaks)]
    write_documents(pa.Table.from_pylist(documents, DOCUMENT_SCHEMA), tmp_path / "train.parquet")
    sets = {
        name: [(f"{name} {number}", text) for number, text in enumerate(texts)]
        for name, texts in {"leaked": leaks + partly, "partly": partly}.items()
    }
    leaked, partly_found = contamination_rows(sets, [tmp_path / "train.parquet"], EvaluationConfig())
    assert [item.item for item in leaked.worst] == [f"leaked {number}" for number in range(WORST_KEPT + 3)]
    assert len(leaked.worst[0].excerpt) == EXCERPT_CHARACTERS
    assert (partly_found.mostly_share, len(partly_found.worst)) == (0.0, WORST_KEPT)

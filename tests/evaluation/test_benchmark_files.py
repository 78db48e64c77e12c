"""Benchmark files are found by name, read in their published layouts, and unusable items are named."""

import csv
import json
import random
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.evaluation.tiny_benchmarks import ROWS, checked, write_benchmarks, write_rows
from yunmin_assets.evaluation.benchmark_files import (
    BenchmarkFile,
    BenchmarkItems,
    check_benchmark,
    find_benchmarks,
    item_hashes,
    task_names,
)

COPA = ROWS["kobest_copa"]


def read_copa(folder: Path, *rows: object) -> BenchmarkItems:
    """The good items of COPA and some more rows."""
    path = write_rows(folder / "kobest_copa.jsonl", [*COPA, *rows])
    return check_benchmark(BenchmarkFile("kobest_copa", "kobest_copa", path))


def boolq(count: int) -> list[dict[str, str]]:
    return [
        {"ID": str(place), "Text": f"글 {place}", "Question": "맞나?", "Answer": "True"}
        for place in range(count)
    ]


def read_boolq(path: Path, rows: list[dict[str, str]]) -> BenchmarkItems:
    return check_benchmark(BenchmarkFile("kobest_boolq", "kobest_boolq", write_rows(path, rows)))


def test_a_file_is_recognised_by_its_name(tmp_path):
    tasks = {
        "kobest_boolq_dev.jsonl": "kobest_boolq",
        "KMMLU-accounting.json": "kmmlu",
        "HAERAE_history.jsonl": "hae_rae",
        "hae-rae.jsonl": "hae_rae",
        "CLIcK.json": "click",
    }
    passed_over = ("clickbait.jsonl", "klue_nli_dev.jsonl", "kmmlu.txt")
    for name in (*tasks, *passed_over):
        (tmp_path / name).touch()
    (tmp_path / "kmmlu").mkdir()
    lines: list[str] = []
    found = find_benchmarks(tmp_path, log=lines.append)
    assert {file.path.name: file.task for file in found.values()} == tasks
    (line,) = lines
    assert line.startswith(f"{tmp_path}: passed over") and "CLIcK" not in line
    assert line.endswith(": clickbait.jsonl, klue_nli_dev.jsonl, kmmlu, kmmlu.txt")


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        find_benchmarks(tmp_path / "absent")


def test_one_name_is_one_file(tmp_path):
    for suffix in (".json", ".jsonl"):
        (tmp_path / f"kmmlu{suffix}").touch()
    with pytest.raises(ValueError, match=r"holds kmmlu as \.json and as \.jsonl"):
        find_benchmarks(tmp_path)


def test_every_task_reads_its_published_layout(tmp_path):
    read = {items.file.task: items for items in checked(write_benchmarks(tmp_path))}
    assert tuple(read) == task_names() == tuple(sorted(ROWS))
    answers = {task: [item.answer for item in items.items] for task, items in read.items()}
    assert answers == {
        "click": [0, 4],
        "hae_rae": [1, 4],
        "kmmlu": [1, 3],
        "kobest_boolq": [1, 0, 1],
        "kobest_copa": [0, 1],
        "kobest_hellaswag": [0, 2],
        "kobest_sentineg": [1, 0],
        "kobest_wic": [0, 1],
    }
    counts = {task: [item.choice_count for item in items.items] for task, items in read.items()}
    assert counts["click"] == [4, 5]
    assert counts["hae_rae"] == [5, 5]
    assert counts["kobest_boolq"] == [2, 2, 2]
    assert not any(items.left_out for items in read.values())


def test_a_json_list_reads_like_json_lines(tmp_path):
    (tmp_path / "kobest_copa.json").write_text(json.dumps(COPA), encoding="utf-8")
    (tmp_path / "lines").mkdir()
    assert checked(tmp_path)[0].items == read_copa(tmp_path / "lines").items


@pytest.mark.parametrize("content", ["{", '{"items": []}'])
def test_a_json_file_that_is_no_list_is_refused(tmp_path, content):
    (tmp_path / "kmmlu.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"kmmlu\.json .*\.jsonl file"):
        checked(tmp_path)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({key: value for key, value in COPA[0].items() if key != "sentence"}, "no field 'sentence'"),
        ({**COPA[0], "sentence": " "}, "sentence is empty"),
        ({**COPA[0], "sentence": None}, "sentence is no text"),
        ({**COPA[0], "1": ["길"]}, "1 is no text"),
        ({**COPA[0], "Answer": "3"}, "Answer is '3', none of 1, 2"),
        ({**COPA[0], "Answer": 0}, "Answer is '0', none of 1, 2"),
        ({**COPA[0], "question": "이유"}, "question is '이유', none of 원인, 결과"),
        ({**COPA[0], "1": "해가 떴다."}, "two of its choices are the same"),
        ({**COPA[0], "ID": "9"}, "the same question as item 1"),
        ({**COPA[0], "Answer": "2"}, "the same question as item 1 with another answer"),
        (["비가 왔다."], "no JSON object"),
        ('{"ID": "3"', "no JSON object (unexpected end of data"),
    ],
)
def test_an_item_that_cannot_be_used_is_left_out_by_place_and_reason(tmp_path, row, reason):
    read = read_copa(tmp_path, row)
    assert [item.item for item in read.items] == [1, 2]
    (left_out,) = read.left_out
    assert left_out.item == 3
    assert left_out.reason.startswith(reason)
    assert read.items_in_file == 3


def test_a_click_item_needs_two_to_five_choices_and_its_answer_among_them(tmp_path):
    good = ROWS["click"][0]
    bad = [{**good, "choices": "서울"}, {**good, "choices": ["서울"]}, {**good, "answer": "제주"}]
    path = write_rows(tmp_path / "click.jsonl", [good, *bad])
    read = check_benchmark(BenchmarkFile("click", "click", path))
    assert [each.reason for each in read.left_out] == [
        "choices is no list of two to five texts",
        "choices is no list of two to five texts",
        "answer is '제주', none of 서울, 부산, 대구, 광주",
    ]


def test_choices_that_differ_in_case_alone_are_told_apart(tmp_path):
    row = {**ROWS["click"][0], "choices": ["KB", "kb", "Kg", "G"], "answer": "kb"}
    wrong = {**row, "answer": "KG"}
    path = write_rows(tmp_path / "click.jsonl", [row, wrong])
    read = check_benchmark(BenchmarkFile("click", "click", path))
    assert [item.answer for item in read.items] == [1]
    assert [each.reason for each in read.left_out] == ["answer is 'KG', none of KB, kb, Kg, G"]


@pytest.mark.parametrize("paragraph", ["", "  ", None])
def test_a_paragraph_of_nothing_is_none(tmp_path, paragraph):
    path = write_rows(tmp_path / "click.jsonl", [{**ROWS["click"][0], "paragraph": paragraph}])
    (item,) = check_benchmark(BenchmarkFile("click", "click", path)).items
    assert item.texts["paragraph"] == ""


@pytest.mark.parametrize(
    ("query", "choices"),
    [
        ("고르시오.\n(A) 가 (B) 나 (C) 다 (D) 라\n정답:", 4),
        ("고르시오.\n(A) 가 (B) 나 (C) 다 (D) 라 (E) 마\n정답:", 5),
        ("고르시오.\n(a) 가\n(b) 나\n정답:", 2),
        ("(A)에 들어갈 말을 고르시오.\n정답:", 5),
    ],
)
def test_a_hae_rae_item_has_the_choices_that_its_query_lists(tmp_path, query, choices):
    beyond = {"query": f"다음 중 {query}", "answer": "(E)"}
    path = write_rows(tmp_path / "hae_rae.jsonl", [{"query": query, "answer": "(B)"}, beyond])
    read = check_benchmark(BenchmarkFile("hae_rae", "hae_rae", path))
    assert (read.items[0].choice_count, read.items[0].answer) == (choices, 1)
    if choices < 5:
        assert read.left_out[0].reason.startswith("answer is '(e)', none of (a), (b)")


def test_the_hash_of_an_item_changes_with_what_is_asked_and_with_nothing_else(tmp_path):
    row, other = COPA
    (tmp_path / "again").mkdir()
    first = item_hashes(read_copa(tmp_path))
    again = item_hashes(read_copa(tmp_path / "again", {**row, "1": "땅이 젖었다."}))
    assert first == {1: again[1], 2: again[2]}
    path = write_rows(tmp_path / "kobest_copa.jsonl", [{**other, "ID": "9"}, {**row, "Answer": "2"}])
    moved = item_hashes(check_benchmark(BenchmarkFile("kobest_copa", "kobest_copa", path)))
    assert moved[1] == first[2]
    assert len({*first.values(), *again.values(), *moved.values()}) == 4


def test_a_file_without_a_usable_item_is_refused_with_the_first_reasons(tmp_path):
    path = write_rows(tmp_path / "kobest_boolq.jsonl", COPA)
    with pytest.raises(ValueError, match=r"item 1: no field 'Text'; item 2: .* in tasks/kobest_boolq\.yaml"):
        check_benchmark(BenchmarkFile("kobest_boolq", "kobest_boolq", path))
    with pytest.raises(ValueError, match="it is empty"):
        check_benchmark(BenchmarkFile("kmmlu", "kmmlu", write_rows(tmp_path / "kmmlu.jsonl", [])))


def test_texts_are_composed_as_the_corpus_is(tmp_path):
    decomposed = [{key: unicodedata.normalize("NFD", value) for key, value in row.items()} for row in COPA]
    path = write_rows(tmp_path / "kobest_copa_nfd.jsonl", decomposed)
    assert check_benchmark(BenchmarkFile("nfd", "kobest_copa", path)).items == read_copa(tmp_path).items
    assert read_copa(tmp_path).items[0].text == "비가 왔다.\n결과\n길이 젖었다.\n해가 떴다."


def test_a_limit_chooses_the_same_items_from_the_file_in_any_order(tmp_path):
    rows = boolq(60)
    shuffled = random.Random(1).sample(rows, len(rows))
    chosen = read_boolq(tmp_path / "a.jsonl", rows).limited(20)
    again = read_boolq(tmp_path / "b.jsonl", shuffled).limited(20)
    assert {item.text for item in chosen.items} == {item.text for item in again.items}
    assert [item.item for item in chosen.items] == sorted(item.item for item in chosen.items)
    assert [item.item for item in chosen.items] != list(range(1, 21))


def test_a_smaller_limit_chooses_some_of_the_same_items_and_none_all(tmp_path):
    items = read_boolq(tmp_path / "a.jsonl", boolq(60))
    few, more = ({item.item for item in items.limited(limit).items} for limit in (10, 20))
    assert few < more
    assert (len(few), len(more)) == (10, 20)
    assert items.limited(None) == items.limited(100) == items


def test_the_choice_of_items_does_not_look_at_the_answers(tmp_path):
    rows = boolq(60)
    other = [{**row, "Answer": "False"} for row in rows]
    chosen, again = (
        {item.item for item in read_boolq(tmp_path / f"{name}.jsonl", some).limited(20).items}
        for name, some in {"a": rows, "b": other}.items()
    )
    assert chosen == again


def test_every_item_of_kobests_development_files_can_be_used(shared_data):
    read = {name: check_benchmark(file) for name, file in find_benchmarks(shared_data / "eval").items()}
    assert {name: len(items.items) for name, items in read.items()} == {
        "kobest_boolq_dev": 700,
        "kobest_copa_dev": 500,
        "kobest_hellaswag_dev": 500,
        "kobest_sentineg_dev": 400,
        "kobest_wic_dev": 610,
    }
    assert not any(items.left_out for items in read.values())
    assert Counter(item.answer for item in read["kobest_wic_dev"].items) == {0: 349, 1: 261}


def documented_lines() -> dict[str, str]:
    """By the name of the file that it makes, every line of the documentation that makes one."""
    text = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (python -c .* > (\S+)\.jsonl)$", text, re.MULTILINE)
    return {name: line for line, name in lines}


@pytest.fixture
def published(tmp_path) -> Path:
    """Tiny files in the formats in which the benchmarks are published."""
    kmmlu = [{**row, "question": row["question"] + "\nㄱ, ㄴ", "Human Accuracy": ""} for row in ROWS["kmmlu"]]
    with (tmp_path / "Accounting-test.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(kmmlu[0]))
        writer.writeheader()
        writer.writerows(kmmlu)
    pq.write_table(pa.Table.from_pylist(ROWS["hae_rae"]), tmp_path / "history.parquet")
    for folder, row in zip(("Culture/Korean Economy", "Language"), ROWS["click"], strict=True):
        (tmp_path / "Dataset" / folder).mkdir(parents=True)
        (tmp_path / "Dataset" / folder / "a.json").write_text(json.dumps([row]), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", ["kmmlu_accounting", "hae_rae_history", "click"])
def test_the_documented_lines_bring_published_files_into_the_layout(published, name):
    line = documented_lines()[name].replace("python", sys.executable, 1)
    subprocess.run(line, shell=True, cwd=published, check=True)
    read = checked(published)[0]
    assert (read.file.name, len(read.items), read.left_out) == (name, 2, ())
    rows = ROWS[read.file.task]
    expected = check_benchmark(
        BenchmarkFile(name, read.file.task, write_rows(published / "expected.jsonl", rows))
    )
    assert [(item.answer, item.choices) for item in read.items] == [
        (item.answer, item.choices) for item in expected.items
    ]

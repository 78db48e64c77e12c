"""A few synthetic items for every task, in the layouts of the published files."""

import json
from pathlib import Path
from typing import Any

from yunmin_assets.evaluation.benchmark_files import BenchmarkItems, check_benchmark, find_benchmarks

ROWS: dict[str, list[dict[str, Any]]] = {
    "kobest_boolq": [
        {"ID": "1", "Text": "부산은 항구다.", "Question": "부산은 항구인가?", "Answer": "True"},
        {"ID": "2", "Text": "김치는 배추로 담근다.", "Question": "김치는 무인가?", "Answer": "False"},
        {"ID": "3", "Text": "밤에는 해가 진다.", "Question": "밤은 어두운가?", "Answer": "True"},
    ],
    "kobest_copa": [
        {
            "ID": "1",
            "sentence": "비가 왔다.",
            "question": "결과",
            "1": "길이 젖었다.",
            "2": "해가 떴다.",
            "Answer": "1",
        },
        {
            "ID": "2",
            "sentence": "잠을 못 잤다.",
            "question": "원인",
            "1": "잘 쉬었다.",
            "2": "시끄러웠다.",
            "Answer": "2",
        },
    ],
    "kobest_hellaswag": [
        {
            "context": "요리사가 물을 끓인다.",
            "choice1": "면을 넣는다.",
            "choice2": "하늘을 난다.",
            "choice3": "물이 얼어서 그 위에서 썰매를 탄다.",
            "choice4": "잠을 잔다.",
            "label": "0",
        },
        {
            "context": "기차가 역에 들어온다.",
            "choice1": "바다로 간다.",
            "choice2": "나무가 된다.",
            "choice3": "사람들이 내린다.",
            "choice4": "노래한다.",
            "label": "2",
        },
    ],
    "kobest_sentineg": [
        {"ID": "1", "Text": "아주 만족합니다", "Label": "1"},
        {"ID": "2", "Text": "다시는 안 삽니다", "Label": "0"},
    ],
    "kobest_wic": [
        {
            "ID": "1",
            "Target": "배",
            "SENTENCE1": "[배]를 탔다.",
            "SENTENCE2": "[배]를 먹었다.",
            "ANSWER": "FALSE",
        },
        {
            "ID": "2",
            "Target": "길",
            "SENTENCE1": "[길]을 걷다.",
            "SENTENCE2": "[길]을 건너다.",
            "ANSWER": "True",
        },
    ],
    "kmmlu": [
        {
            "question": "물의 화학식은?",
            "answer": 2,
            "A": "CO2",
            "B": "H2O",
            "C": "O2",
            "D": "N2",
            "Category": "화학",
        },
        {"question": "1+1은?", "answer": 4, "A": 5, "B": 3, "C": 1, "D": 2, "Category": "수학"},
    ],
    "hae_rae": [
        {"query": "고르시오.\n(A) 가 (B) 나 (C) 다 (D) 라 (E) 마\n정답:", "options": "[…]", "answer": "(B)"},
        {
            "query": "또 고르시오.\n(A) 가 (B) 나 (C) 다 (D) 라 (E) 마\n정답:",
            "options": "[…]",
            "answer": "(E)",
        },
    ],
    "click": [
        {
            "id": "a",
            "paragraph": "",
            "question": "수도는?",
            "choices": ["서울", "부산", "대구", "광주"],
            "answer": "서울",
        },
        {
            "id": "b",
            "paragraph": "글이다.",
            "question": "무엇인가?",
            "choices": ["글", "말", "그림", "노래", "춤 "],
            "answer": "춤",
        },
    ],
}


def write_rows(path: Path, rows: list[Any]) -> Path:
    """A JSONL file; a row that is text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_benchmarks(folder: Path) -> Path:
    """A folder with a file for every task."""
    folder.mkdir(exist_ok=True)
    for task, rows in ROWS.items():
        write_rows(folder / f"{task}_tiny.jsonl", rows)
    return folder


def checked(folder: Path) -> list[BenchmarkItems]:
    """Every benchmark of a folder, read."""
    return [check_benchmark(file) for file in find_benchmarks(folder).values()]

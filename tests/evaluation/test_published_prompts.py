"""A model is asked what lm-eval's own tasks would ask it, to the blank."""

import runpy
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from datasets import Dataset
from lm_eval.utils import apply_template

from tests.evaluation.tiny_benchmarks import ROWS, checked, write_benchmarks
from yunmin_assets.evaluation.benchmark_files import task_config
from yunmin_assets.evaluation.multiple_choice import build_requests, build_task

PUBLISHED_TASKS = Path(lm_eval.__file__).with_name("tasks")
PUBLISHED = {
    "kobest_boolq": "kobest/kobest_boolq.yaml",
    "kobest_copa": "kobest/kobest_copa.yaml",
    "kobest_hellaswag": "kobest/kobest_hellaswag.yaml",
    "kobest_sentineg": "kobest/kobest_sentineg.yaml",
    "kobest_wic": "kobest/kobest_wic.yaml",
    "kmmlu": "kmmlu/default/_default_kmmlu_yaml",
    "hae_rae": "haerae/_default_haerae_yaml",
    "click": "click/click_cul/_default_click_cul_yaml",
}
PUBLISHED_NAMES = {
    "kobest_boolq": {"paragraph": "Text", "question": "Question"},
    "kobest_copa": {"premise": "sentence", "alternative_1": "1", "alternative_2": "2"},
    "kobest_hellaswag": {f"ending_{number}": f"choice{number}" for number in range(1, 5)},
    "kobest_sentineg": {"sentence": "Text"},
    "kobest_wic": {"context_1": "SENTENCE1", "context_2": "SENTENCE2", "word": "Target"},
}
"""lm-eval's names for the fields of KoBEST."""


def published_prompt_and_choices(task: str, row: dict[str, Any]) -> tuple[str, list[str]]:
    """What lm-eval's own task makes of a row, before it joins prompt and choice by a blank."""
    file = PUBLISHED_TASKS / PUBLISHED[task]
    config = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)
    functions = runpy.run_path(str(utils)) if (utils := file.with_name("utils.py")).exists() else {}
    document = row | {theirs: row[ours] for theirs, ours in PUBLISHED_NAMES.get(task, {}).items()}
    if task == "kobest_hellaswag":
        document = functions["hellaswag_process_doc"](Dataset.from_list([document]))[0]

    def made(key: str) -> Any:
        if config[key].startswith("utils."):
            return functions[config[key].removeprefix("utils.")](document)
        return document.get(config[key]) or apply_template(config[key], document)

    choices = config["doc_to_choice"]
    return made("doc_to_text"), choices if isinstance(choices, list) else made("doc_to_choice")


def test_prompts_and_choices_are_those_of_lm_evals_own_tasks(tmp_path: Path) -> None:
    for benchmark in checked(write_benchmarks(tmp_path)):
        task = benchmark.file.task
        requests_of = build_requests(build_task(task_config(task), benchmark.items))
        for row, requests in zip(ROWS[task], requests_of, strict=True):
            if len(row.get("choices", ())) == 5:
                continue  # of which lm-eval's CLIcK shows four
            prompt, choices = published_prompt_and_choices(task, row)
            assert [each.args for each in requests] == [(prompt, f" {choice}") for choice in choices]

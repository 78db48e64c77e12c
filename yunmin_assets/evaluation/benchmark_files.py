"""Multiple-choice benchmarks on local files: which are there, and which of their items can be used.

A benchmark is a JSONL file (or a JSON list) with the fields under which it was published; `tasks/<task>.yaml` describes
them, the prompt and the choices. The file's name says which task it is for: `kobest_copa_dev.jsonl`,
`KMMLU-accounting.json`. A file is read and judged before any model is loaded.

An item that cannot be used (a field is missing, the answer is none of the choices, the same question came before)
is left out, with its place in the file and the reason. Texts are brought to NFC and stripped, as the corpus was.

Which items are asked when there is a limit follows from a hash of their content alone: the same for every model, on
every machine, and in a file in any order.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson
import yaml

from yunmin_assets.files import MissingInputError
from yunmin_assets.progress import Log, silent

TASKS = Path(__file__).with_name("tasks")
SUFFIXES = (".jsonl", ".json")
REASONS_SHOWN = 3
FEWEST_CHOICES = 2


@dataclass(frozen=True)
class BenchmarkFile:
    """A local file and the task it is for."""

    name: str
    """The file's name without suffix."""
    task: str
    path: Path


@dataclass(frozen=True)
class LeftOut:
    """An item that was not used, and why; `item` is its place in the file, counted from 1."""

    item: int
    reason: str


@dataclass(frozen=True)
class BenchmarkItem:
    """A question as a model is asked it."""

    item: int
    """Place in the file, counted from 1 (in JSONL: the line)."""
    texts: dict[str, str]
    choices: tuple[str, ...]
    """As the item gives them; empty where every item has the same ones, as yes and no."""
    choice_count: int
    answer: int
    """The right choice, counted from 0."""

    @cached_property
    def question(self) -> bytes:
        """A hash of everything but the answer."""
        return hashlib.blake2b(orjson.dumps([*self.texts.values(), *self.choices]), digest_size=16).digest()

    @property
    def text(self) -> str:
        """All its texts, one per line."""
        return "\n".join([*self.texts.values(), *self.choices])


@dataclass(frozen=True)
class BenchmarkItems:
    """The usable items of a file."""

    file: BenchmarkFile
    items: tuple[BenchmarkItem, ...]
    left_out: tuple[LeftOut, ...]
    items_in_file: int

    def limited(self, limit: int | None) -> "BenchmarkItems":
        """At most `limit` items, in the order of the file."""
        chosen = sorted(self.items, key=lambda item: item.question)[:limit]
        return replace(self, items=tuple(sorted(chosen, key=lambda item: item.item)))


@cache
def task_names() -> tuple[str, ...]:
    """The benchmarks that can be evaluated."""
    return tuple(sorted(path.stem for path in TASKS.glob("*.yaml")))


def task_config(task: str) -> dict[str, Any]:
    """The lm-eval configuration of a task; `metadata.layout` describes its files."""
    config: dict[str, Any] = yaml.safe_load((TASKS / f"{task}.yaml").read_text(encoding="utf-8"))
    return config


def item_hashes(benchmark: BenchmarkItems) -> dict[int, str]:
    """By place in the file, a hash of what a model is asked and what is right: the item, and how its task asks."""
    task = {key: value for key, value in task_config(benchmark.file.task).items() if key != "metadata"}
    hashes = {}
    for item in benchmark.items:
        asked = orjson.dumps([task, item.texts, item.choices, item.choice_count, item.answer])
        hashes[item.item] = hashlib.blake2b(asked, digest_size=16).hexdigest()
    return hashes


def find_benchmarks(folder: Path, *, log: Log = silent) -> dict[str, BenchmarkFile]:
    """The benchmark files of a folder by name, in alphabetical order.

    Args:
        folder: searched without its subfolders.
        log: receives the names of everything that is passed over.

    Raises:
        MissingInputError: there is no such folder.
        ValueError: a name is there as .json and .jsonl.
    """
    if not folder.is_dir():
        raise MissingInputError(
            f"{folder} is not a folder: give one with benchmark files such as kobest_copa.jsonl"
        )
    found: dict[str, BenchmarkFile] = {}
    passed_over = []
    for path in sorted(folder.iterdir()):
        task = _task_of(path.stem) if path.suffix in SUFFIXES and path.is_file() else None
        if task is None:
            passed_over.append(path.name)
        elif path.stem in found:
            raise ValueError(f"{folder} holds {path.stem} as .json and as .jsonl: remove one")
        else:
            found[path.stem] = BenchmarkFile(path.stem, task, path)
    if passed_over:
        log(f"{folder}: passed over, no {' or '.join(SUFFIXES)} named after a task: {', '.join(passed_over)}")
    return found


def _task_of(name: str) -> str | None:
    """The task whose name a file's name begins with, written with `_`, `-` or nothing between the words."""
    for task in task_names():
        if re.match(task.replace("_", "[-_]?") + r"(?![a-z])", name.casefold()):
            return task
    return None


def check_benchmark(file: BenchmarkFile) -> BenchmarkItems:
    """Read a benchmark and tell its usable items from the others.

    Raises:
        ValueError: it has no usable item; says what is wrong with the first ones.
    """
    layout = task_config(file.task)["metadata"]["layout"]
    first: dict[bytes, BenchmarkItem] = {}
    left_out: list[LeftOut] = []
    places = 0
    for place, record in _records(file.path):
        places += 1
        try:
            item = _read_item(place, record, layout)
            if (same := first.setdefault(item.question, item)) is not item:
                another = "" if same.answer == item.answer else " with another answer"
                raise _UnusableError(f"the same question as item {same.item}{another}")
        except _UnusableError as error:
            left_out.append(LeftOut(place, str(error)))
    if not first:
        reasons = "; ".join(f"item {each.item}: {each.reason}" for each in left_out[:REASONS_SHOWN])
        raise ValueError(
            f"{file.path} has no usable item for {file.task} ({reasons or 'it is empty'}); the layout it needs stands "
            f"in {TASKS.name}/{file.task}.yaml"
        )
    return BenchmarkItems(file, tuple(first.values()), tuple(left_out), places)


class _UnusableError(Exception):
    """Why an item is left out."""


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Items with their places from 1; a line that is no JSON comes as the error."""
    content = path.read_bytes()
    if path.suffix == ".json":
        try:
            records = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}): JSON lines belong into a .jsonl file") from error
        if not isinstance(records, list):
            raise ValueError(
                f"{path} holds no list of items: one JSON object per line belongs into a .jsonl file"
            )
        yield from enumerate(records, start=1)
        return
    for place, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                yield place, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                yield place, error


def _read_item(place: int, record: Any, layout: dict[str, Any]) -> BenchmarkItem:
    if not isinstance(record, dict):
        raise _UnusableError(
            f"no JSON object ({record})" if isinstance(record, Exception) else "no JSON object"
        )
    texts = {name: _text(record, name) for name in layout["texts"]}
    for name in layout.get("optional", ()):
        texts[name] = _text(record, name) if str(record.get(name) or "").strip() else ""
    for name, allowed in layout.get("allowed", {}).items():
        if texts[name] not in allowed:
            raise _UnusableError(f"{name} is {texts[name]!r}, none of {', '.join(allowed)}")
    choices = _choices(record, layout.get("choices", []))
    answer, answers = _text(record, layout["answer"]), choices
    if "answers" in layout:  # letters, numbers or true and false, which files spell in either case
        answer, answers = answer.casefold(), tuple(map(str.casefold, layout["answers"]))
    if "options_in" in layout:
        answers = _listed(answers, texts[layout["options_in"]])
    if answer not in answers:
        raise _UnusableError(f"{layout['answer']} is {answer!r}, none of {', '.join(answers)}")
    return BenchmarkItem(place, texts, choices, len(answers), answers.index(answer))


def _listed(answers: tuple[str, ...], text: str) -> tuple[str, ...]:
    """The answers, from the first on, that a text lists as options; all of them where it lists no two."""
    listed = tuple(takewhile(lambda answer: answer in text.casefold(), answers))
    return listed if len(listed) >= FEWEST_CHOICES else answers


def _choices(record: dict[str, Any], where: list[str] | str) -> tuple[str, ...]:
    """The choices from the fields that hold one each, or from the one that holds a list."""
    if isinstance(where, str):
        values = record.get(where)
        if not isinstance(values, list) or not FEWEST_CHOICES <= len(values) <= 5:
            raise _UnusableError(f"{where} is no list of two to five texts")
        choices = tuple(_text({where: value}, where) for value in values)
    else:
        choices = tuple(_text(record, name) for name in where)
    if len(set(choices)) < len(choices):
        raise _UnusableError("two of its choices are the same")
    return choices


def _text(record: dict[str, Any], name: str) -> str:
    """A field as text; a number, as answers often are, is taken as it is written."""
    if name not in record:
        raise _UnusableError(f"no field {name!r}")
    value = record[name]
    if not isinstance(value, str | int | float):
        raise _UnusableError(f"{name} is no text")
    text = unicodedata.normalize("NFC", str(value)).strip()
    if not text:
        raise _UnusableError(f"{name} is empty")
    return text

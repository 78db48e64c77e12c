"""A killed evaluation goes on where it stood and finds the same; a damaged result is measured anew."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.interrupted_evaluation import (
    CONFIG,
    UNITS,
    Evaluation,
    kept_files,
    kill_when_kept,
    prepare,
)
from yunmin_assets.evaluation.evaluate import Findings, Models
from yunmin_assets.evaluation.kept_results import Rows, Unit, keep_in
from yunmin_assets.evaluation.measure import measure_perplexity

UNIT = ("losses", "base", "law")
ROWS: Rows = [{"id": "글", "nll": 0.1 + 0.2, "n_tokens": 2**53 + 1, "problem": None}]
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return prepare(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def undisturbed(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Findings, Path]:
    """What an evaluation finds that nobody kills, and the folder it filled."""
    home = tmp_path_factory.mktemp("undisturbed")
    return evaluation.run(home / "out", home / "work"), home / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def was_measured(unit: Unit, lines: list[str]) -> bool:
    """Whether the log shows the model at work on a unit."""
    kind, model, what = unit
    at_work = f"{model}, {what}: " if kind == "texts" else f"{model} on {what}: "
    return any(line.startswith(at_work) for line in lines)


def was_taken_over(unit: Unit, lines: list[str]) -> bool:
    return any(line.startswith(f"{', '.join(unit)}: taken over") for line in lines)


@pytest.mark.parametrize("count", [1, 10, 15], ids=["losses", "texts", "answers"])
def test_a_killed_evaluation_goes_on_and_finds_the_same(
    count: int, evaluation: Evaluation, undisturbed: tuple[Findings, Path], tmp_path: Path
) -> None:
    work, lines = tmp_path / "work", list[str]()
    kill_when_kept(count, evaluation, tmp_path / "killed", work)
    before = kept_files(work)
    written = {unit: path.stat().st_mtime_ns for unit, path in before.items()}
    assert len(before) == count
    findings = evaluation.run(tmp_path / "out", work, lines.append)
    after = kept_files(work)
    assert (findings, contents(tmp_path / "out")) == (undisturbed[0], contents(undisturbed[1]))
    assert len(after) == UNITS == len(list(work.iterdir()))
    assert {unit for unit in after if not was_measured(unit, lines)} == set(before)
    assert {unit for unit in after if was_taken_over(unit, lines)} == set(before)
    assert {unit: after[unit].stat().st_mtime_ns for unit in before} == written


def test_what_is_complete_is_read_without_any_model(evaluation: Evaluation, tmp_path: Path) -> None:
    findings = evaluation.run(tmp_path / "first", tmp_path / "work")
    lines: list[str] = []
    nothing = tmp_path / "no model"
    models = Models(nothing, nothing, dict.fromkeys(evaluation.tests, nothing), nothing)
    without = Evaluation(models, evaluation.tests, evaluation.training, evaluation.questions)
    assert without.run(tmp_path / "second", tmp_path / "work", lines.append) == findings
    assert contents(tmp_path / "second") == contents(tmp_path / "first")
    assert sum("taken over" in line for line in lines) == UNITS


@given(st.lists(st.dictionaries(st.text(), VALUES)))
def test_rows_come_back_as_they_were_measured(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> None:
    keep = keep_in(tmp_path_factory.mktemp("work"))
    assert keep(UNIT, lambda: rows) is rows
    assert repr(keep(UNIT, must_not_measure)) == repr(rows)


def must_not_measure() -> Rows:
    raise AssertionError("measured although it was kept")


def test_a_damaged_file_is_removed_and_measured_anew(tmp_path: Path) -> None:
    lines: list[str] = []
    keep = keep_in(tmp_path, log=lines.append)
    keep(UNIT, lambda: ROWS)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0.30000000000000004", b"0.30000000000000014"))
    assert keep(UNIT, lambda: ROWS) == ROWS
    assert lines == [
        f"losses, base, law: measured anew, {path} is damaged and was removed (the checksum is another)"
    ]
    assert path.read_bytes() == whole
    assert keep(UNIT, must_not_measure) == ROWS


def test_what_was_measured_under_other_conditions_is_not_taken_over(tmp_path: Path) -> None:
    before, after = ([{"loss": loss}] for loss in (1.0, 2.0))
    keep_in(tmp_path, {"torch": "2.13.0", "device": "cpu"})(UNIT, lambda: before)
    assert keep_in(tmp_path, {"torch": "2.14.0", "device": "cpu"})(UNIT, lambda: after) == after
    assert keep_in(tmp_path, {"device": "cpu", "torch": "2.13.0"})(UNIT, must_not_measure) == before


def test_a_file_of_brackets_is_damage_as_any_other(tmp_path: Path) -> None:
    keep = keep_in(tmp_path)
    keep(UNIT, lambda: ROWS)
    (path,) = tmp_path.iterdir()
    path.write_text("[" * 100_000)
    assert keep(UNIT, lambda: ROWS) == ROWS


@pytest.mark.parametrize(
    "damaged",
    [
        lambda whole, place: whole[:place],
        lambda whole, place: whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        lambda whole, place: whole[:place] + bytes([whole[place] | 0x80]) + whole[place + 1 :],
    ],
    ids=["cut", "another character", "no character"],
)
def test_no_damage_of_a_single_place_changes_what_was_measured(
    damaged: Callable[[bytes, int], bytes], tmp_path: Path
) -> None:
    keep = keep_in(tmp_path)
    keep(UNIT, lambda: ROWS)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(damaged(whole, place))
        assert keep(UNIT, lambda: ROWS) == ROWS
        path.write_bytes(whole)


def test_a_file_under_another_units_name_is_not_taken_for_it(tmp_path: Path) -> None:
    keep = keep_in(tmp_path)
    keep(UNIT, lambda: ROWS)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    other = (*UNIT[:2], "food")
    keep(other, lambda: [])
    for file in tmp_path.iterdir():
        file.write_bytes(content)
    assert keep(other, lambda: []) == []


def numbered(number: int) -> Rows:
    return [{"number": number}]


def test_every_unit_has_a_name_of_its_own_that_every_file_system_and_the_mirror_take(tmp_path: Path) -> None:
    odd = [
        "a/b",
        "..",
        "",
        "a.tmp",
        "a.part.lock",
        "봄 여름",
        "가을",
        "nul\0",
        "A",
        "a",
        "\udcff",
        "long" * 100,
    ]
    units = [*((kind, name) for kind in ("losses", "texts") for name in odd), ("a", "b-c"), ("a-b", "c")]
    keep = keep_in(tmp_path)
    for number, unit in enumerate(units):
        keep(unit, partial(numbered, number))
    assert [keep(unit, must_not_measure) for unit in units] == [numbered(n) for n in range(len(units))]
    names = [path.name for path in tmp_path.iterdir()]
    assert len({name.casefold() for name in names}) == len(units)
    assert all(len(name) < 100 and name.isascii() and name.count(".") == 1 for name in names)


def test_nothing_is_kept_where_nothing_was_measured(evaluation: Evaluation, tmp_path: Path) -> None:
    keep = keep_in(tmp_path / "work")
    empty = {"law": pa.table({"id": ["1"], "text": [""]})}
    with pytest.raises(ValueError, match="no test document has a token"):
        measure_perplexity(empty, {"base": {"law": evaluation.models.base}}, CONFIG, keep=keep)
    assert not (tmp_path / "work").exists()

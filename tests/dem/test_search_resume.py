"""A weight search that was killed goes on, and its result is that of an undisturbed one, byte for byte."""

import json
from pathlib import Path

import pytest

from tests.dem.interrupted_search import journal_lines, killed_when, run_search
from yunmin_assets.dem import WeightsConfig
from yunmin_assets.dem.search_journal import JOURNAL_FILE, Journal, open_journal
from yunmin_assets.language_model.checkpoint import read_state

ROWS = {"search_rows": 6, "comparison_rows": 6}
GRADIENT = WeightsConfig(method="gradient", steps=30, **ROWS)
PER_MODULE = WeightsConfig(method="per_module", steps=30, **ROWS)
TPE = WeightsConfig(method="tpe", trials=15, **ROWS)
HEADER = 1


def without_cpu_seconds(path: Path) -> bytes:
    content = json.loads(path.read_text())
    del content["search_cpu_seconds"]
    for row in content["candidates"]:
        del row["cpu_seconds"]
    return json.dumps(content).encode()


@pytest.fixture(scope="module")
def undisturbed(mamba2, tmp_path_factory):
    """Runs a search once, and says where its work folder and its result are."""
    results = {}

    def run(config):
        if config.method not in results:
            folder = tmp_path_factory.mktemp(config.method)
            run_search(mamba2, config, folder / "work", folder / "weights.json")
            results[config.method] = folder / "work", folder / "weights.json"
        return results[config.method]

    return run


@pytest.mark.parametrize("config", [GRADIENT, PER_MODULE, TPE], ids=lambda config: config.method)
def test_a_killed_search_goes_on_to_the_same_bytes_and_remembers_what_it_spent(
    config, undisturbed, mamba2, tmp_path
):
    its_work, expected = undisturbed(config)
    work, resumed = tmp_path / "work", tmp_path / "weights.json"
    killed_when(lambda work: journal_lines(work) >= HEADER + 5, mamba2, config, work)
    entries = [json.loads(line) for line in (work / JOURNAL_FILE).read_text().splitlines()[HEADER:]]
    run_search(mamba2, config, work, resumed)
    assert HEADER + len(entries) < journal_lines(work) == journal_lines(its_work)
    assert without_cpu_seconds(resumed) == without_cpu_seconds(expected)
    spent_before = sum(entry["cpu_seconds"] for entry in entries)
    assert json.loads(resumed.read_text())["search_cpu_seconds"] > spent_before > 0


def test_a_search_killed_while_its_control_trains_goes_on_there(undisturbed, mamba2, tmp_path):
    work, resumed = tmp_path / "work", tmp_path / "weights.json"
    checkpoints = work / "control" / "checkpoints"
    killed_when(lambda _: read_state(checkpoints) is not None, mamba2, GRADIENT, work)
    state = read_state(checkpoints)
    assert state is not None and not (work / "control" / "model").exists()
    run_search(mamba2, GRADIENT, work, resumed)
    assert without_cpu_seconds(resumed) == without_cpu_seconds(undisturbed(GRADIENT)[1])
    control = json.loads(resumed.read_text())["candidates"][-1]
    assert control["candidate"] == "lora on validation"
    assert control["cpu_seconds"] > state["loader"]["cpu_seconds"] > 0


def test_half_a_line_left_by_a_kill_is_computed_again(tmp_path):
    computed = []

    def unit(journal: Journal, number: int) -> float:
        return journal.once("unit", number, lambda: computed.append(number) or number / 3)

    with open_journal(tmp_path, "this") as journal:
        assert [unit(journal, 1), unit(journal, 2)] == [1 / 3, 2 / 3]
    path = tmp_path / JOURNAL_FILE
    path.write_bytes(path.read_bytes()[:-7])
    with open_journal(tmp_path, "this") as journal:
        assert [unit(journal, 1), unit(journal, 2)] == [1 / 3, 2 / 3]
    assert computed == [1, 2, 2]
    with open_journal(tmp_path, "this") as journal:
        assert unit(journal, 2) == 2 / 3
    assert computed == [1, 2, 2]


@pytest.mark.parametrize(
    ("damaged", "place"),
    [
        (lambda lines: [b"{" + lines[0], *lines[1:]], "line 1 is damaged"),
        (lambda lines: [lines[0], lines[1][:9], lines[2]], "line 2 is damaged"),
        (lambda lines: [lines[0], b"\xff" * 9, lines[2]], "line 2 is damaged"),
        (
            lambda lines: [lines[0], lines[0], lines[2]],
            "line 2 does not hold cpu_seconds, kind, result, unit",
        ),
        (lambda lines: [b"[]", *lines[1:]], "line 1 does not hold identity, threads"),
    ],
    ids=["header", "entry", "not text", "header twice", "other JSON"],
)
def test_a_damaged_journal_is_refused_by_its_line_with_the_cure(damaged, place, tmp_path):
    with open_journal(tmp_path, "this") as journal:
        for number in range(2):
            journal.once("unit", number, lambda: 1.0)
    path = tmp_path / JOURNAL_FILE
    path.write_bytes(b"".join(line + b"\n" for line in damaged(path.read_bytes().splitlines())))
    with (
        pytest.raises(ValueError, match=f"{JOURNAL_FILE}, {place}.*: remove its folder to start afresh"),
        open_journal(tmp_path, "this"),
    ):
        pass


def test_a_domain_may_be_named_with_any_line_end_of_unicode(tmp_path):
    weights = {"food\u2028law\x85\n": 0.5}
    for _ in range(2):
        with open_journal(tmp_path, "this") as journal:
            assert journal.once("unit", weights, lambda: weights) == weights
    assert journal_lines(tmp_path) == HEADER + 1


def test_the_folder_of_another_search_is_refused_with_the_cure(mamba2, tmp_path):
    run_search(mamba2, GRADIENT.model_copy(update={"steps": 2}), tmp_path / "work", tmp_path / "one.json")
    with pytest.raises(ValueError, match="written by another search: remove its folder"):
        run_search(mamba2, GRADIENT, tmp_path / "work", tmp_path / "other.json")

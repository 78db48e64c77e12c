"""The loading benchmark measures equal rows, and tells a good shuffle from a bad one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loading import main
from benchmarks.loading_data import (
    EOS,
    ROW_TOKENS,
    SEQ_LEN,
    blocks,
    documents,
    open_rows,
    row_numbers,
    spread_of_batches,
    write_stream,
)
from benchmarks.loading_readers import OURS, PLAIN
from benchmarks.loading_tables import targets_table

ROWS = 2500  # more than two blocks


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    write_stream(folder, ROWS)
    return folder


def test_rows_overlap_by_one_and_say_their_number(stream: Path) -> None:
    rows = open_rows(stream)
    assert rows.shape == (ROWS, ROW_TOKENS)
    assert (row_numbers(rows) == np.arange(ROWS)).all()
    assert (rows[:-1, -1] == rows[1:, 0]).all()
    assert (rows[:, SEQ_LEN - 1] == EOS).all() and (rows[:, 2 : SEQ_LEN - 1] != EOS).all()
    assert (np.concatenate(list(blocks(stream))) == rows).all()
    assert (np.stack(list(documents(stream))) == rows[:, : SEQ_LEN - 1]).all()


def test_equal_seeds_give_equal_bytes(stream: Path, tmp_path: Path) -> None:
    write_stream(tmp_path, ROWS)
    assert (tmp_path / "tokens.u16").read_bytes() == (stream / "tokens.u16").read_bytes()


def test_ids_follow_zipfs_law(stream: Path) -> None:
    counts = np.bincount(open_rows(stream)[:, 2:2000].ravel(), minlength=100)
    assert counts[2] / counts[20] == pytest.approx(math.log(3 / 2) / math.log(21 / 20), rel=0.1)


def test_a_shuffle_has_a_spread_of_one_and_sorted_rows_of_the_batchs_root() -> None:
    rows = 65_536
    assert spread_of_batches(np.arange(rows)) == pytest.approx(math.sqrt(512), rel=0.01)
    shuffled = np.random.default_rng(0).permutation(rows)
    assert spread_of_batches(shuffled) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("name", [*OURS, *PLAIN])
def test_every_loader_delivers_every_row_once(name: str, stream: Path, tmp_path: Path) -> None:
    loader = {**OURS, **PLAIN}[name]
    path = stream / loader.data
    if not path.exists():
        loader.write(stream, path)
    rows = open_rows(stream)
    numbers = []
    for batch in loader.read(path, 0):
        tokens = batch.numpy()
        numbers.append(row_numbers(tokens))
        assert tokens.dtype == np.int64 and (tokens == rows[numbers[-1], : tokens.shape[1]]).all()
    delivered = np.concatenate(numbers)
    assert (np.sort(delivered) == np.arange(ROWS)).all()
    if loader.resumes:
        resumed = row_numbers(next(iter(loader.read(path, 1003))).numpy())
        assert (resumed == delivered[1003 : 1003 + len(resumed)]).all()


def test_a_state_made_up_from_a_position_is_the_state_that_is_saved_there(stream: Path) -> None:
    from yunmin_assets.columnar import PackedDataset

    path = stream / OURS["ours-256"].data
    if not path.exists():
        OURS["ours-256"].write(stream, path)
    dataset = PackedDataset(path, batch_size=8)
    begin = dataset.state_dict()
    for _, _batch in zip(range(5), dataset, strict=False):
        pass
    assert dataset.state_dict() == {**begin, "samples": 40}


def test_a_run_reports_figures_targets_and_absent_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines"
    tools = "ours-256,memmap,mosaicml"
    main(["--tools", tools, "--rows", "2048", "--repeat", "1", "--no-text", "--markdown",
          "--peers", str(tmp_path / "nothing"), "--json", str(lines)])  # fmt: skip
    ours, memmap, peer = map(json.loads, lines.read_text().splitlines())
    for report in (ours, memmap):
        assert report["rows"] == 2048 and report["every_row_once"] and report["resume_is_exact"]
    assert 0.9 < ours["read_amplification"] < 1.1
    printed = capsys.readouterr().out
    if "absent" in peer:
        assert peer["install"] in printed
    assert "| ours-256 " in printed and "bytes read per byte stored" in printed


def test_a_target_that_is_missed_says_so() -> None:
    reached = {
        "tool": "ours-256", "mtok_per_cpu_s_median": 1.0, "extra_anonymous_mb": 60.0, "b512": 1.2,
        "every_row_once": True, "read_amplification": 1.0, "first_batch_ms": 1.0, "resume_ms": 1.0,
        "resume_is_exact": False,
    }  # fmt: skip
    verdicts = {
        line.split("|")[1].strip(): line.split("|")[4].strip()
        for line in targets_table([reached], None).splitlines()[2:]
    }
    assert verdicts["extra MB, ours-256"] == "reached"
    assert verdicts["b512, ours-256"] == verdicts["resume is exact, ours-256"] == "NOT REACHED"

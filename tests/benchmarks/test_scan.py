"""The scan benchmark measures all forms on equal inputs and does not claim a target that was missed."""

import json
from pathlib import Path

import pytest
from transformers.models.mamba import modeling_mamba

from benchmarks import scan_child
from benchmarks.scan import main, table, targets_table
from tests.language_model.toy import one_thread


def report(form: str, times_stock: float, error: float) -> dict[str, object]:
    """Made-up figures at the length of the target."""
    return {
        "what": "scan",
        "form": form,
        "length": 256,
        "cpu_s": 1 / times_stock,
        "wall_s": 1 / times_stock,
        "times_stock": times_stock,
        "times_stock_wall": times_stock,
        "extra_mb": 1,
        "gradient_error": error,
    }


def test_every_form_is_measured_on_the_same_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scan.jsonl"
    main(["--what", "scan", "--lengths", "32", "--repeat", "2", "--threads", "1", "--json", str(file)])
    reports = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(r["form"], r["length"]) for r in reports] == [("stock", 32), ("unbind", 32), ("compiled", 32)]
    for measured in reports:
        assert measured["cpu_s"] == pytest.approx(min(measured["cpu_s_of_runs"]), abs=1e-3)
        assert measured["gradient_error"] < 1e-5
        assert measured["times_stock"] == reports[0]["cpu_s"] / measured["cpu_s"]
    assert "the scan alone" in capsys.readouterr().out


def test_without_the_stock_scan_no_factor_is_claimed() -> None:
    with_stock = report("compiled", 30, 1e-7)
    without = {key: value for key, value in with_stock.items() if "times" not in key}
    assert "30.0×" in table("scan", [with_stock]) and "30.0×" not in table("scan", [without])
    assert "times stock" not in targets_table([without])


@pytest.mark.parametrize(
    ("times", "error", "verdicts"),
    [(20, 1e-5, ["reached"] * 3), (19.9, 2e-5, ["NOT REACHED"] * 3)],
)
def test_a_missed_target_is_called_so(times: float, error: float, verdicts: list[str]) -> None:
    rows = targets_table([report("stock", 1, 1), report("compiled", times, error)]).splitlines()[2:]
    assert [row.split("|")[-2].strip() for row in rows] == verdicts


@pytest.mark.parametrize("form", ["stock", "compiled", "mamba2"])
def test_a_training_step_learns_its_batch(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_child, "VOCABULARY", 20)
    monkeypatch.setattr(modeling_mamba, "mamba_selective_scan", modeling_mamba.mamba_selective_scan)
    with one_thread():
        before = modeling_mamba.mamba_selective_scan
        step = scan_child.step_work(form, 8)
        scan = modeling_mamba.mamba_selective_scan
        if form == "mamba2":
            assert scan is before  # its models leave Mamba-1's scan as it was
        else:
            assert (scan is scan_child.STOCK) == (form == "stock")
        first, second, third = step(), step(), step()
    assert first > second > third

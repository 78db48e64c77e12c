"""The sensor's benchmark drives the real sensor through pages of a real S3 protocol, in bounded ticks."""

import json

import pytest

from benchmarks import sensor
from yunmin_assets.automation import raw_changes

DOMAINS = 3


def test_each_history_is_seen_in_ticks_that_are_bounded_in_objects_and_in_cursor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(raw_changes, "MAX_OBJECTS_PER_LOOK", 2_000)
    monkeypatch.setattr(sensor, "DELIVERY", 30)
    sensor.main(["--objects", "4500", "--domains", str(DOMAINS)])
    ticks = json.loads(capsys.readouterr().out.splitlines()[-1])["ticks"]
    requested = {tick["history"]: 0 for tick in ticks}
    for tick in ticks:
        requested[tick["history"]] += tick["runs_requested"]
        assert tick["requests"] <= 2  # pages of 1,000
        assert tick["cursor_bytes"] < 1_500
    assert requested == {
        "all new": DOMAINS,
        "nothing changed": 0,
        "one overwritten": 1,
        "one deleted": 1,
        "one new domain": 1,
        "30 delivered": DOMAINS,
    }
    assert max(tick["tick"] for tick in ticks) == 2 * 3  # passes, of three ticks each

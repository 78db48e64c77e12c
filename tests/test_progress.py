import re

from yunmin_assets.progress import Progress


def line_after(done: int, seconds: float) -> str:
    lines: list[str] = []
    with Progress(lines.append, "steps", total=10) as progress:
        progress._started -= seconds
        progress.advance(done)
    return lines[-1]


def test_fast_work_has_a_rate_and_slow_work_says_how_long_one_takes() -> None:
    assert re.search(r"^10 of 10 steps, 5/s, done$", line_after(10, 2))
    assert re.search(r"^2 of 10 steps, 4\.0 s each, 32 s left, done$", line_after(2, 8))


def test_before_the_first_unit_there_is_no_rate() -> None:
    assert line_after(0, 3) == "0 of 10 steps, none yet, done"

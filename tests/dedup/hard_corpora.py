"""Corpora that a careless implementation takes hours or all memory for; decided about in a child process.

    python -m tests.dedup.hard_corpora write KIND FOLDER
    python -m tests.dedup.hard_corpora measure FOLDER MEMORY_BUDGET_MB

The second prints how much anonymous memory it had before the work and at most, in MB.
"""

import random
import sys
import threading
import time
from pathlib import Path

from tests.dedup.lake_files import Corpora
from yunmin_assets.dedup import DedupConfig
from yunmin_assets.dedup.clusters import decide_over_domains

SECONDS_BETWEEN_SAMPLES = 0.005


def near_identical(count: int = 50_000) -> dict[str, str]:
    """One bucket: all pairs would be 1.25 billion comparisons."""
    chance = random.Random(1)
    body = "".join(chr(chance.randrange(0xAC00, 0xD7A4)) for _ in range(300))
    return {f"d{number:05d}": f"{body} {number:05d}" for number in range(count)}


def identical(count: int = 100_000) -> dict[str, str]:
    """One text."""
    return dict.fromkeys((f"d{number:06d}" for number in range(count)), "같은 공지 사항입니다.")


def huge() -> dict[str, str]:
    """50 MB twice, with a difference, beside 2,000 short documents."""
    chance = random.Random(0)
    paragraph = "".join(chr(chance.randrange(0xAC00, 0xD7A4)) for _ in range(1000))
    text = "".join(f"{paragraph}{number}" for number in range(16_600))
    short = {f"short-{number:04d}": f"짧은 글 {chance.random()}" for number in range(2000)}
    return {"huge-a": text, "huge-b": f"{text} 끝", **short}


def anonymous_mb() -> float:
    """Anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon"))


def samples(peak: list[float], stop: threading.Event) -> None:
    """Keep the largest anonymous memory in `peak[0]`."""
    while not stop.is_set():
        peak[0] = max(peak[0], anonymous_mb())
        time.sleep(SECONDS_BETWEEN_SAMPLES)


def corpora_in(folder: Path, budget: int) -> Corpora:
    """The corpus that `write` wrote there."""
    corpora = Corpora(folder, DedupConfig(memory_budget_mb=budget), documents_per_file=10_000)
    root = folder / "1"
    corpora.clean, corpora.signed = {"web": root / "clean" / "web"}, {"web": root / "signatures" / "web"}
    corpora.out = root / "out"
    return corpora


def write(kind: str, folder: Path) -> None:
    """Write a corpus, in a process of its own: what making it took must not hide what deciding takes."""
    make = {"near_identical": near_identical, "identical": identical, "huge": huge}[kind]
    Corpora(folder, DedupConfig(), documents_per_file=10_000).write({"web": make()})


def measure(folder: Path, budget: int) -> None:
    """Sign and decide, warmed up, and print the memory before and at most."""
    Corpora(folder / "warm", DedupConfig()).decide({"web": {"a": "글", "b": "글 둘"}})
    corpora = corpora_in(folder, budget)
    before, stop = anonymous_mb(), threading.Event()
    peak = [before]
    sampler = threading.Thread(target=samples, args=(peak, stop))
    sampler.start()
    corpora.sign()
    decide_over_domains(corpora.clean, corpora.signed, corpora.out, corpora.config, workspace=folder / "work")
    stop.set()
    sampler.join()
    print(before, peak[0])


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], Path(sys.argv[3]))
    else:
        measure(Path(sys.argv[2]), int(sys.argv[3]))

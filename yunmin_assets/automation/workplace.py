"""Where a local run keeps what it makes: data/demo for the sample corpus, data/<name> for your own text.

data/<name>/raw       the sample corpus (your own text stays where it is)
data/<name>/lake      every snapshot
data/<name>/dagster   runs and events, so that `make dev` shows what `make demo` did
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resources.settings import REPOSITORY


@dataclass(frozen=True)
class Workplace:
    """The folders of one local run."""

    home: Path
    raw: str
    is_sample: bool

    @property
    def lake(self) -> Path:
        """Where assets are published."""
        return self.home / "lake"

    def activate(self) -> None:
        """Point this process (and those it starts) at these folders; must come before `definitions` is imported."""
        dagster_home = self.home / "dagster"
        dagster_home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / "configs" / "dagster.yaml", dagster_home / "dagster.yaml")
        os.environ.update(
            DAGSTER_HOME=str(dagster_home),
            YUNMIN_RAW=self.raw,
            YUNMIN_LAKE=str(self.lake),
            PYTHONUNBUFFERED="1",
        )


def sample_workplace(home: Path | None = None) -> Workplace:
    """The embedded sample corpus, written on first use."""
    home = (home or REPOSITORY / "data" / "demo").absolute()
    return Workplace(home, str(home / "raw"), is_sample=True)


def own_workplace(raw: str, home: Path | None = None) -> Workplace:
    """A user's own text; each raw folder has a home of its own."""
    uri = raw if "://" in raw else str(Path(raw).expanduser().resolve())
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    default = REPOSITORY / "data" / f"{name}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
    return Workplace((home or default).absolute(), uri, is_sample=False)


@contextlib.contextmanager
def only_run_in(home: Path) -> Iterator[None]:
    """Hold the home folder for one run; the operating system lets go of it when the process dies.

    Raises:
        SystemExit: another run holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "local_run.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SystemExit(
                f"another run is at work in {home}: wait for it, or choose another --home"
            ) from error
        yield


def ensure_sample_corpus(workplace: Workplace) -> None:
    """Write the synthetic sample corpus unless it is there; a run that was killed leaves none."""
    from yunmin_assets.corpus.sample import write_sample_corpus

    target = Path(workplace.raw)
    if target.exists():
        return
    print("writing the sample corpus (synthetic text, five domains) …", flush=True)
    part = target.with_name("raw.part")
    shutil.rmtree(part, ignore_errors=True)
    write_sample_corpus(part)
    part.rename(target)

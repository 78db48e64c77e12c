"""What a weight search has done already, one JSON line per unit of work, so that a killed one goes on.

A unit is named by everything its result depends on (which step, which weights), and only a unit that is not in the
journal is computed. So a search that goes on takes the same decisions from the same numbers, and needs no other state.
Every line is on the disk before the next unit begins; half a line, left by a kill, is cut off.

Units also say what CPU time they took, and a search that went on reports that of all its processes. What a killed
process spent on an unfinished unit is not known.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from yunmin_assets.files import locked

JOURNAL_FILE = "search.jsonl"
HEADER, ENTRY = {"identity", "threads"}, {"unit", "kind", "result", "cpu_seconds"}
CURE = "remove its folder to start afresh"

Result = TypeVar("Result")


class Journal:
    """Opened by `open_journal`."""

    def __init__(self, path: Path, identity: str):
        self._path = path
        header, entries = _read(path)
        if header is None:
            header = {"identity": identity, "threads": torch.get_num_threads()}
            self._append(header)
        elif header["identity"] != identity:
            raise ValueError(f"{path} was written by another search: {CURE}")
        self.threads: int = header["threads"]
        self._done: dict[str, dict[str, Any]] = {entry["unit"]: entry for entry in entries}

    def once(self, kind: str, what: object, compute: Callable[[], Result]) -> Result:
        """The result of a unit: from the journal, or computed and noted down.

        Args:
            kind: Of unit, for `cpu_seconds`.
            what: Everything else the result depends on, as JSON values.
            compute: Gives JSON values.
        """
        unit = json.dumps([kind, what], ensure_ascii=False)
        if unit not in self._done:
            started = time.process_time()
            result = compute()
            entry = {
                "unit": unit,
                "kind": kind,
                "result": result,
                "cpu_seconds": time.process_time() - started,
            }
            self._append(entry)
            self._done[unit] = entry
        return self._done[unit]["result"]

    def cpu_seconds(self, kind: str) -> float:
        """CPU seconds that the units of a kind took, in all processes that worked on this search."""
        return sum(entry["cpu_seconds"] for entry in self._done.values() if entry["kind"] == kind)

    def _append(self, entry: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def open_journal(folder: Path, identity: str) -> Iterator[Journal]:
    """The journal of a search in its folder, held alone; torch takes as many threads as when it was begun.

    Sums are rounded differently with another number of threads.

    Args:
        folder: Created when absent.
        identity: What must be equal for a search to be continued.

    Raises:
        ValueError: The folder holds the journal of another search, or a damaged one.
        RuntimeError: Another process works on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    with locked(folder / f"{JOURNAL_FILE}.lock"):
        journal = Journal(folder / JOURNAL_FILE, identity)
        torch.set_num_threads(journal.threads)
        try:
            yield journal
        finally:
            torch.set_num_threads(threads)


def _read(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The header, None where there is none yet, and the entries."""
    header, entries = None, []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is damaged ({error}): {CURE}") from error
        wanted = ENTRY if header else HEADER
        if not isinstance(found, dict) or found.keys() != wanted:
            raise ValueError(f"{path}, line {number} does not hold {', '.join(sorted(wanted))}: {CURE}")
        if header:
            entries.append(found)
        else:
            header = found
    return header, entries


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file; half a line at its end is cut off.

    Names may hold characters that Unicode takes for ends of lines: only the byte of a line feed is one here.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return content[:whole].split(b"\n")[:-1]

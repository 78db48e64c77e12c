"""What was measured is kept, so that an evaluation that was killed goes on where it stood.

A unit of work (one model's losses on one domain, its texts by one decoding, its answers to one benchmark) is a JSON
file of rows that appears when the unit is done and the file is on the disk. Rows are plain values: text, whole numbers,
floats (which JSON keeps to the bit), true, false and null. Findings come from the rows, kept or new, in the same way.

A file is named after its unit and the conditions (versions of libraries, the device), so a folder is for one
evaluation: the same models, files and options. What was measured under other conditions is not taken over, lest a
difference between two versions of a library count as one between two models. The checksum covers conditions, unit and
rows: a file that is not what was written is removed, and the unit is measured anew.

Price: a kill loses the unit under way. No test set is so large that writing its rows takes time.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from yunmin_assets.files import write_whole
from yunmin_assets.progress import Log, silent

Rows = list[dict[str, Any]]
Unit = tuple[str, ...]
"""What was measured, of which model, on what."""
Keep = Callable[[Unit, Callable[[], Rows]], Rows]
"""Gives the rows of a unit, and calls the function that measures it only where it has to."""

READABLE_CHARACTERS = 60
"""Of a unit, in its file's name; what tells the files apart is the hash after them."""


def keep_nothing(_: Unit, measure: Callable[[], Rows]) -> Rows:
    """For callers that measure what takes no time."""
    return measure()


def keep_in(folder: Path, conditions: Mapping[str, str] | None = None, *, log: Log = silent) -> Keep:
    """Keep results in a folder, which is made with the first one.

    Args:
        folder: for one evaluation.
        conditions: under which it is made: only what was measured under the same ones is taken over.
        log: says what was taken over or damaged.
    """

    def keep(unit: Unit, measure: Callable[[], Rows]) -> Rows:
        key = [list(unit), dict(conditions or {})]
        path, name = folder / _file_name(unit, key), ", ".join(unit)
        if path.exists():
            try:
                rows = _read(path, key)
            except (ValueError, RecursionError) as error:
                log(f"{name}: measured anew, {path} is damaged and was removed ({error})")
                path.unlink()
            else:
                log(f"{name}: taken over, it was measured before")
                return rows
        rows = measure()
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"unit": unit, "rows": rows, "sha256": _checksum(key, rows)}))
        return rows

    return keep


def _file_name(unit: Unit, key: list[Any]) -> str:
    """Safe in every file system, whatever a model or a benchmark is called."""
    readable = re.sub(r"[^a-zA-Z0-9]+", "-", "-".join(unit))[:READABLE_CHARACTERS]
    return f"{readable}-{hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()}.json"


def _checksum(key: list[Any], rows: Any) -> str:
    return hashlib.sha256(json.dumps([key, rows], sort_keys=True).encode()).hexdigest()


def _read(path: Path, key: list[Any]) -> Rows:
    """The rows of a file.

    Raises:
        ValueError: it is not what was written.
    """
    kept = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(kept, dict) or kept.get("sha256") != _checksum(key, kept.get("rows")):
        raise ValueError("the checksum is another")
    rows: Rows = kept["rows"]
    return rows

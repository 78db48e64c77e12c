"""JSONL against Parquet on the user's own data: how fast each is read, and in how much memory.

Every reader runs in a fresh process over the same sample (see loading_sample, loading_readers), one after the
other. The baselines, by name:

- text: lines of JSONL through Python's `json`, and through `orjson`, the fastest there is;
- training rows: token lists in JSONL through both, and through orjson with a shuffle buffer of 10,000 rows.
  `PackedDataset` always shuffles, so its memory is held against that buffer.

Price: about half a minute, and disk for some 100 MB of sample.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from yunmin_assets.columnar.jsonl_readers import SHUFFLE_BUFFER_ROWS
from yunmin_assets.columnar.loading_readers import READERS, Measured
from yunmin_assets.columnar.loading_sample import Folder, write_sample
from yunmin_assets.config_model import ConfigModel
from yunmin_assets.plots import bars, markdown_table
from yunmin_assets.progress import Log, silent

READER_PROGRAM = "yunmin_assets.columnar.loading_readers"
LONGEST_SECONDS = 120.0
MEGABYTE = 1e6
LEAST_READERS = 2  # of a kind, to be compared

NAMES = {
    "texts_by_json": "text · JSONL, json",
    "texts_by_orjson": "text · JSONL, orjson",
    "texts_by_parquet": "text · Parquet, Python strings",
    "texts_as_arrow": "text · Parquet, Arrow",
    "rows_by_json": "rows · JSONL, json",
    "rows_by_orjson": "rows · JSONL, orjson",
    "rows_by_orjson_shuffled": f"rows · JSONL, orjson, {SHUFFLE_BUFFER_ROWS:,}-row shuffle buffer",
    "rows_by_packed_dataset": "rows · PackedDataset, shuffled",
}


class LoadingComparison(ConfigModel):
    """What every reader took for the same documents and rows."""

    documents: int
    text_bytes: int
    rows: int
    tokens: int
    readers: dict[str, Measured]
    """By the name of the function in loading_readers; without those that failed."""
    failures: dict[str, str] = Field(default_factory=dict)
    """Reader → what went wrong."""

    def disagreements(self) -> list[str]:
        """Why it is not shown that the readers of a kind found the same; nothing when it is."""
        problems = []
        for kind in ("texts", "rows"):
            found = {name: item.found for name, item in self.readers.items() if name.startswith(kind)}
            if len(found) < LEAST_READERS:
                problems.append(f"{len(found)} readers of {kind} came to an end, it takes {LEAST_READERS}")
            elif len({*found.values()}) > 1:
                problems.append(f"different {kind}: " + ", ".join(f"{n} {h[:8]}" for n, h in found.items()))
        return problems

    def speedup(self, reader: str, baseline: str) -> float | None:
        """How often a reader goes through the sample in the CPU time of a baseline."""
        if reader not in self.readers or baseline not in self.readers:
            return None
        return self.readers[baseline].cpu_seconds / max(self.readers[reader].cpu_seconds, 1e-9)

    def extra_memory(self, reader: str) -> int | None:
        """Bytes of a reader over those of the interpreter and its libraries."""
        return self.readers[reader].extra_memory_bytes if reader in self.readers else None


def compare_loading(
    shards: Mapping[str, Folder], log: Log = silent, *, readers: Sequence[str] = tuple(READERS)
) -> LoadingComparison:
    """Measure readers on a sample of what was written for several domains.

    Args:
        shards: domain → a folder or remote prefix written by `write_domain_shards`.
        log: progress.
        readers: names of functions in loading_readers; one that fails is reported, and the others go on.

    Raises:
        ValueError: two domains were packed with different layouts.
    """
    measured: dict[str, Measured] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="yunmin-loading-") as name:
        sample = write_sample(shards, Path(name))
        for reader in readers:
            try:
                measured[reader] = _measure_in_a_process(reader, Path(name))
                log(f"{NAMES[reader]}: {measured[reader].cpu_seconds:.3f} CPU-seconds")
            except (subprocess.SubprocessError, ValidationError) as error:
                failures[reader] = _reason(error)
                log(f"{reader} failed: {failures[reader]}")
    return LoadingComparison(
        documents=sample.documents,
        text_bytes=sample.text_bytes,
        rows=sample.rows,
        tokens=sample.tokens,
        readers=measured,
        failures=failures,
    )


def describe_loading(comparison: LoadingComparison) -> tuple[dict[str, float], str]:
    """Figures for the metadata page, and a table with two plots."""
    figures: dict[str, float | None] = {
        "sample_documents": comparison.documents,
        "sample_text_bytes": comparison.text_bytes,
        "sample_rows": comparison.rows,
        "sample_tokens": comparison.tokens,
        "text_speedup_over_json": comparison.speedup("texts_by_parquet", "texts_by_json"),
        "text_speedup_over_orjson": comparison.speedup("texts_by_parquet", "texts_by_orjson"),
        "arrow_speedup_over_orjson": comparison.speedup("texts_as_arrow", "texts_by_orjson"),
        "rows_speedup_over_json": comparison.speedup("rows_by_packed_dataset", "rows_by_json"),
        "rows_speedup_over_orjson": comparison.speedup("rows_by_packed_dataset", "rows_by_orjson"),
        "rows_memory_bytes": comparison.extra_memory("rows_by_packed_dataset"),
        "unshuffled_jsonl_memory_bytes": comparison.extra_memory("rows_by_orjson"),
        "shuffled_jsonl_memory_bytes": comparison.extra_memory("rows_by_orjson_shuffled"),
        "shuffle_buffer_rows": SHUFFLE_BUFFER_ROWS,
    }
    return {name: value for name, value in figures.items() if value is not None}, _page(comparison)


def _page(comparison: LoadingComparison) -> str:
    rows, rates = list[tuple[object, ...]](), dict[str, float]()
    for reader, measured in comparison.readers.items():
        is_text = reader.startswith("texts")
        size = comparison.text_bytes if is_text else comparison.tokens
        rate = size / max(measured.cpu_seconds, 1e-9) / MEGABYTE
        memory = measured.extra_memory_bytes
        rows.append(
            (
                NAMES[reader],
                measured.cpu_seconds,
                f"{rate:,.1f} {'MB' if is_text else 'Mtok'}/CPU-s",
                "unknown" if memory is None else f"{memory / MEGABYTE:,.0f} MB",
            )
        )
        if not is_text:
            rates[NAMES[reader].removeprefix("rows · ")] = rate
    rows += [
        (NAMES.get(reader, reader), "failed", reason, "") for reader, reason in comparison.failures.items()
    ]
    table = markdown_table(["reader", "CPU-seconds", "rate", "extra memory"], rows)
    return f"{table}\n\n{bars(rates, title='training rows', ylabel='million tokens per CPU-second')}"


def _measure_in_a_process(reader: str, sample: Path) -> Measured:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", READER_PROGRAM, reader, str(sample)],
        env=environment,
        capture_output=True,
        check=True,
        timeout=LONGEST_SECONDS,
    )
    return Measured.model_validate_json(done.stdout)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {error.returncode}"
    return str(error)

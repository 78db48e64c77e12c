"""The out-of-core path on copies of a corpus that share nothing: is its cost proportional to the documents?

Copy 0 is the corpus. In every other copy the characters are exchanged by a permutation of its own: Hangul
syllables with a final consonant among themselves, those without, ASCII letters (capitals like small ones)
and digits likewise. A bijection of characters maps shingles one to one, so within a copy every Jaccard, every
length and even every UTF-8 size is that of the original, while two copies hardly have a shingle in common. The
classes keep lower-casing and NFC (a syllable without a final composes with a final that follows it).

So copy 0 must be decided as if it were alone, exactly; the others nearly so: their shingles hash to other
values, and LSH misses other pairs (0.17 % of those at Jaccard 0.8).

Signatures and clusters run as two processes, `python -m benchmarks.dedup_scale PHASE …`, warmed up.
"""

import argparse
import json
import string
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.measure import MEGABYTE, markdown_table, measured, run_fresh

WARM_UP_DOCUMENTS = 300
PHASES = ("signatures", "clusters")
CODE_POINTS = 0x110000
HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)
HANGUL_FINALS = 28
"""Every 28th syllable has no final consonant."""

Report = dict[str, Any]


def run_phase(phase: str, clean: Path, results: Path, threshold: float, budget_mb: int | None) -> None:
    """Sign all domains below `clean`, or decide over them: the calls that `dedup/assets.py` makes."""
    from yunmin_assets.dedup import DedupConfig, write_signatures
    from yunmin_assets.dedup.clusters import decide_over_domains
    from yunmin_assets.documents import document_files

    config = DedupConfig(threshold=threshold)
    if budget_mb is not None:
        config = config.model_copy(update={"memory_budget_mb": budget_mb})
    domains = sorted(folder.name for folder in clean.iterdir())
    signatures = {domain: results / "signatures" / domain for domain in domains}
    if phase == "signatures":
        for domain, folder in signatures.items():
            sources = document_files(clean / domain)
            write_signatures(sources, folder, config, workspace=results / "workspace" / domain)
    else:
        cleaned = {domain: clean / domain for domain in domains}
        workspace = results / "workspace" / "clusters"
        decide_over_domains(cleaned, signatures, results / "clusters", config, workspace=workspace)


def decision_files(results: Path) -> list[Path]:
    """The files of decisions that `run_phase` wrote, with columns id and survivor_id."""
    return sorted((results / "clusters" / "decisions").iterdir())


def measure_scales(
    corpus: Path, scales: Sequence[int], threshold: float, budget_mb: int | None, machine: Report
) -> list[Report]:
    """One report per number of copies, in ascending order; one copy is always among them."""
    documents = pq.read_table(corpus / "corpus.parquet")
    size = pc.sum(pc.binary_length(documents["text"])).as_py() / MEGABYTE
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as scratch:
        clean, warm_up = Path(scratch) / "clean", Path(scratch) / "warm_up"
        write_copy(documents.slice(0, WARM_UP_DOCUMENTS), warm_up, 0)
        alone: npt.NDArray[np.int64] | None = None
        for copies in sorted({1, *scales}):
            for copy in range(reports[-1]["copies"] if reports else 0, copies):
                write_copy(documents, clean, copy)
            print(f"{copies} × {documents.num_rows:,} documents", file=sys.stderr)
            costs, survivors = _measure(clean, warm_up, threshold, budget_mb, documents["id"], copies)
            alone = survivors[0] if alone is None else alone
            report = {
                "benchmark": "dedup scale",
                "copies": copies,
                "documents": copies * documents.num_rows,
                "megabytes": copies * size,
                **costs,
                **_compare(survivors, alone),
                "threshold": threshold,
                "memory_budget_mb": budget_mb,
                "machine": machine,
            }
            reports.append(report)
            report["relative_cpu_per_document"] = _cpu_per_document(report) / _cpu_per_document(reports[0])
    return reports


def scale_table(reports: Sequence[Report]) -> str:
    """The reports in Markdown."""
    names = [
        "copies", "documents", "MB", "CPU-s signatures", "CPU-s clusters", "per document against 1×",
        "peak MB signatures (before)", "peak MB clusters (before)", "removed per copy", "copy 0 as alone",
        "others differ in",
    ]  # fmt: skip
    rows = [
        [
            f"{report['copies']}",
            f"{report['documents']:,}",
            f"{report['megabytes']:,.0f}",
            *(f"{report[phase]['cpu_s']:.2f}" for phase in PHASES),
            f"{report['relative_cpu_per_document']:.2f}",
            *(_peak(report[phase]) for phase in PHASES),
            f"{report['fewest_removed']:,}–{report['most_removed']:,}",
            "yes" if report["first_copy_as_alone"] else "NO",
            f"≤ {report['most_decided_otherwise']} documents",
        ]
        for report in reports
    ]
    return markdown_table(names, rows)


def _peak(cost: Report) -> str:
    return f"{cost['peak_anonymous_mb']:,.0f} ({cost['anonymous_before_mb']:,.0f})"


def salt(copy: int) -> npt.NDArray[np.uint32]:
    """What each code point becomes in a copy: uint32[0x110000], a bijection; the identity for copy 0."""
    becomes = np.arange(CODE_POINTS, dtype=np.uint32)
    if copy == 0:
        return becomes
    random = np.random.default_rng(copy)
    syllables = np.array(HANGUL_SYLLABLES)
    has_final = (syllables - HANGUL_SYLLABLES.start) % HANGUL_FINALS != 0
    digits = np.array([ord(digit) for digit in string.digits])
    for members in (syllables[has_final], syllables[~has_final], digits):
        becomes[members] = random.permutation(members)
    letters = random.permutation(len(string.ascii_lowercase))
    for alphabet in (string.ascii_lowercase, string.ascii_uppercase):
        code_points = np.array([ord(letter) for letter in alphabet])
        becomes[code_points] = code_points[letters]
    return becomes


def salted(text: str, becomes: npt.NDArray[np.uint32]) -> str:
    """The text of a copy.

    Raises:
        ValueError: a letter composes with the accent after it, so the copy would not have the same length.
    """
    composed = unicodedata.normalize("NFC", text)
    exchanged = becomes[np.frombuffer(composed.encode("utf-32-le"), "<u4")]
    copy = exchanged.astype("<u4").tobytes().decode("utf-32-le")
    if not unicodedata.is_normalized("NFC", copy):
        raise ValueError(f"exchanging letters composes an accent in {text[:80]!r}: leave this document out")
    return copy


def write_copy(documents: pa.Table, clean: Path, copy: int) -> None:
    """Write a copy of the corpus as a file in each domain's folder, laid out like `clean_corpus`.

    One domain of one copy is in memory at a time, beside the corpus.
    """
    from yunmin_assets.documents import DOCUMENT_SCHEMA, write_documents

    becomes = salt(copy)
    for domain in sorted(pc.unique(documents["domain"]).to_pylist()):
        part = documents.filter(pc.equal(documents["domain"], domain))
        columns: dict[str, Any] = {name: pa.nulls(part.num_rows) for name in DOCUMENT_SCHEMA.names}
        columns["id"] = _ids_of_copy(part["id"], copy)
        columns["text"] = pa.array([salted(text, becomes) for text in part["text"].to_pylist()])
        columns["domain"] = part["domain"]
        write_documents(
            pa.table(columns).cast(DOCUMENT_SCHEMA), clean / domain / f"documents-{copy:05d}.parquet"
        )


def _ids_of_copy(ids: pa.ChunkedArray, copy: int) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(f"{copy:05d}", ids.cast(pa.string()), "-")


def _measure(
    clean: Path, warm_up: Path, threshold: float, budget_mb: int | None, ids: pa.ChunkedArray, copies: int
) -> tuple[Report, npt.NDArray[np.int64]]:
    """Both phases: what they cost, and who survives."""
    with tempfile.TemporaryDirectory(dir=clean.parent) as results:
        arguments = [str(clean), results, str(warm_up), str(threshold)]
        if budget_mb is not None:
            arguments.append(f"--memory-budget-mb={budget_mb}")
        costs = {phase: run_fresh("benchmarks.dedup_scale", [phase, *arguments]) for phase in PHASES}
        return costs, survivors_by_copy(decision_files(Path(results)), ids, copies)


def survivors_by_copy(decisions: Sequence[Path], ids: pa.ChunkedArray, copies: int) -> npt.NDArray[np.int64]:
    """int64[copies, documents]: the survivor of each document of each copy, as a row of all copies together."""
    table = pa.concat_tables([pq.read_table(path, columns=["id", "survivor_id"]) for path in decisions])
    every_id = pa.concat_arrays([array for copy in range(copies) for array in _ids_of_copy(ids, copy).chunks])
    rows = pc.index_in(table["id"], value_set=every_id).to_numpy()
    survivors = np.empty(len(every_id), np.int64)
    survivors[rows] = pc.index_in(table["survivor_id"], value_set=every_id).to_numpy()
    return survivors.reshape(copies, -1)


def _compare(survivors: npt.NDArray[np.int64], alone: npt.NDArray[np.int64]) -> Report:
    copies, documents = survivors.shape
    own = survivors - np.arange(copies)[:, None] * documents  # as if every copy were the first
    removed = (own != np.arange(documents)).sum(axis=1)
    otherwise = (own != alone).sum(axis=1)
    return {
        "removed_per_copy": removed.tolist(),
        "fewest_removed": int(removed.min()),
        "most_removed": int(removed.max()),
        "first_copy_as_alone": bool(otherwise[0] == 0),
        "most_decided_otherwise": int(otherwise.max()),
    }


def _cpu_per_document(report: Report) -> float:
    return float(sum(report[phase]["cpu_s"] for phase in PHASES) / report["documents"])


def main() -> None:
    """Run one phase, warmed up, and print what it cost as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=PHASES)
    for folder in ("clean", "results", "warm_up"):
        parser.add_argument(folder, type=Path)
    parser.add_argument("threshold", type=float)
    parser.add_argument("--memory-budget-mb", type=int)
    options = parser.parse_args()
    how = options.threshold, options.memory_budget_mb
    with tempfile.TemporaryDirectory() as scratch:
        for phase in PHASES:
            run_phase(phase, options.warm_up, Path(scratch), *how)
    _, cost = measured(lambda: run_phase(options.phase, options.clean, options.results, *how))
    print(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main()

"""The out-of-core path on copies of a corpus that share nothing: is its cost proportional to the documents?

Copy 0 is the corpus. In every other copy the characters are exchanged by a permutation of its own: Hangul
syllables with a final consonant among themselves, those without, ASCII letters (capitals like small ones)
and digits likewise. A bijection of characters maps shingles one to one, so within a copy every Jaccard, every
length and even every UTF-8 size is that of the original, while two copies hardly have a shingle in common. The
classes keep lower-casing and NFC (a syllable without a final composes with a final that follows it).

So copy 0 must be decided as if it were alone, exactly; the others nearly so: their shingles hash to other
values, and LSH misses other pairs (0.17 % of those at Jaccard 0.8).

Signatures, clusters and then a delivery of `DELIVERED` more documents to one domain run as processes,
`python -m benchmarks.dedup_scale PHASE …`, warmed up.
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
FULL_RUN = ("signatures", "clusters")
PHASES = (*FULL_RUN, "delivery")
DELIVERED = 180
DELIVERED_FILE = "documents-99999.parquet"
"""Behind the copies."""
CODE_POINTS = 0x110000
HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)
HANGUL_FINALS = 28
"""Every 28th syllable has no final consonant."""

Report = dict[str, Any]


def run_phase(phase: str, clean: Path, results: Path, threshold: float, budget_mb: int | None) -> None:
    """Sign all domains below `clean`, decide over them, or do both again for a delivery to the first domain.

    These are the calls that `dedup/assets.py` makes.
    """
    from yunmin_assets.dedup import DedupConfig, write_signatures
    from yunmin_assets.dedup.clusters import decide_over_domains
    from yunmin_assets.documents import document_files

    config = DedupConfig(threshold=threshold)
    if budget_mb is not None:
        config = config.model_copy(update={"memory_budget_mb": budget_mb})
    domains = sorted(folder.name for folder in clean.iterdir())
    signatures = {domain: results / "signatures" / domain for domain in domains}
    cleaned = {domain: clean / domain for domain in domains}
    workspace, decided = results / "workspace", results / "clusters"
    if phase == "signatures":
        for domain, folder in signatures.items():
            write_signatures(document_files(cleaned[domain]), folder, config, workspace=workspace / domain)
    elif phase == "clusters":
        decide_over_domains(cleaned, signatures, decided, config, workspace=workspace / "clusters")
    else:
        domain = domains[0]
        signatures[domain] = results / "signatures-after" / domain
        sources = document_files(cleaned[domain])
        write_signatures(sources, signatures[domain], config, workspace=workspace / f"{domain}-after")
        after, scratch = results / "clusters-after", workspace / "clusters-after"
        decide_over_domains(cleaned, signatures, after, config, workspace=scratch, previous=decided)


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
            costs, survivors = _measure(clean, warm_up, threshold, budget_mb, documents, copies)
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
        f"CPU-s {DELIVERED} more",
        "peak MB signatures (before)", "peak MB clusters (before)", "removed per copy", "copy 0 as alone",
        "others differ in",
    ]  # fmt: skip
    rows = [
        [
            f"{report['copies']}",
            f"{report['documents']:,}",
            f"{report['megabytes']:,.0f}",
            *(f"{report[phase]['cpu_s']:.2f}" for phase in FULL_RUN),
            f"{report['relative_cpu_per_document']:.2f}",
            f"{report['delivery']['cpu_s']:.2f}",
            *(_peak(report[phase]) for phase in FULL_RUN),
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
    clean: Path, warm_up: Path, threshold: float, budget_mb: int | None, documents: pa.Table, copies: int
) -> tuple[Report, npt.NDArray[np.int64]]:
    """All phases: what they cost, and who survives the full run."""
    with tempfile.TemporaryDirectory(dir=clean.parent) as results:
        arguments = [str(clean), results, str(warm_up), str(threshold)]
        if budget_mb is not None:
            arguments.append(f"--memory-budget-mb={budget_mb}")
        costs = {phase: run_fresh("benchmarks.dedup_scale", [phase, *arguments]) for phase in FULL_RUN}
        survivors = survivors_by_copy(decision_files(Path(results)), documents["id"], copies)
        delivered = _write_delivery(documents, clean, copies)
        costs["delivery"] = run_fresh("benchmarks.dedup_scale", ["delivery", *arguments])
        delivered.unlink()
        return costs, survivors


def _write_delivery(documents: pa.Table, clean: Path, copies: int) -> Path:
    """New documents for the first domain: of one domain of the corpus, in a copy that is not there yet."""
    domain = min(folder.name for folder in clean.iterdir())
    part = documents.filter(pc.equal(documents["domain"], domain)).slice(0, DELIVERED)
    delivery = clean.parent / "delivery"
    write_copy(part, delivery, copies)
    return (delivery / domain / f"documents-{copies:05d}.parquet").rename(clean / domain / DELIVERED_FILE)


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
    return float(sum(report[phase]["cpu_s"] for phase in FULL_RUN) / report["documents"])


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

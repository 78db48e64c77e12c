"""Folders as the assets publish them, for tests of deduplication over several domains."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from yunmin_assets.dedup import DedupConfig
from yunmin_assets.dedup.clusters import ClusterCounts, decide_over_domains
from yunmin_assets.dedup.signing import write_signatures
from yunmin_assets.documents import DOCUMENT_SCHEMA, document_files, write_documents

Corpus = Mapping[str, Mapping[str, str]]
"""Domain → id → text."""
Found = dict[str, tuple[str, float, str | None]]
"""domain/id → its survivor, the Jaccard to it, and the reason if it goes."""


class Corpora:
    """Writes corpora below one folder and decides about them; each has a number of its own."""

    def __init__(self, folder: Path, config: DedupConfig, *, documents_per_file: int = 3) -> None:
        self.folder, self.config, self.documents_per_file = folder, config, documents_per_file
        self.runs = 0
        self.counts = ClusterCounts(0, 0, 0, 0, {})

    def decide(self, corpus: Corpus, *, previous: Path | None = None) -> Found:
        """Clean corpora, signatures, decisions; `out` is where the last decisions are."""
        self.write(corpus)
        self.sign()
        return self.decide_again(previous=previous)

    def write(self, corpus: Corpus) -> None:
        """Write clean corpora only."""
        self.runs += 1
        root = self.folder / str(self.runs)
        self.clean = {domain: root / "clean" / domain for domain in corpus}
        self.signed = {domain: root / "signatures" / domain for domain in corpus}
        self.out = root / "out"
        for domain, documents in corpus.items():
            self._write(domain, documents)

    def sign(self) -> None:
        """Sign what was written."""
        for domain, folder in self.clean.items():
            workspace = self.out.parent / "signing" / domain
            write_signatures(document_files(folder), self.signed[domain], self.config, workspace=workspace)

    def decide_again(self, *, previous: Path | None = None) -> Found:
        """Decide about what was signed."""
        workspace = self.out.parent / "deciding"
        self.counts = decide_over_domains(
            self.clean, self.signed, self.out, self.config, workspace=workspace, previous=previous
        )
        return read_found(self.out)

    def _write(self, domain: str, documents: Mapping[str, str]) -> None:
        self.clean[domain].mkdir(parents=True)
        rows = [{"id": name, "text": text, "domain": domain} for name, text in documents.items()]
        for number, first in enumerate(range(0, len(rows), self.documents_per_file)):
            table = pa.Table.from_pylist(rows[first : first + self.documents_per_file], DOCUMENT_SCHEMA)
            write_documents(table, self.clean[domain] / f"documents-{number:05d}.parquet")


def read_found(out: Path) -> Found:
    """All decisions in a folder."""
    return {
        f"{file.stem}/{row['id']}": (row["cluster_id"], row["jaccard"], row["reason"])
        for file in sorted((out / "decisions").iterdir())
        for row in pq.read_table(file).to_pylist()
    }

"""Some removed documents beside their survivors, for a person to judge: `pairs/<domain>.parquet`.

The texts come from the documents of two domains; only row groups that hold one of them are read.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.dedup.decision_files import read_removed
from yunmin_assets.dedup.side_by_side import choose_pairs
from yunmin_assets.documents import document_files
from yunmin_assets.snapshot_files import pairs_file

Name = tuple[str, str]
"""Domain and id."""


def write_pairs(folder: Path, clean_folders: Mapping[str, Path]) -> None:
    """Choose pairs from the decisions in `folder` and write them there, with both texts.

    Args:
        folder: what `clusters.decide_over_domains` wrote.
        clean_folders: by domain, the snapshots of `clean_corpus` it decided about.
    """
    chosen = {domain: choose_pairs(read_removed(folder, domain)) for domain in clean_folders}
    wanted: dict[str, set[str]] = defaultdict(set)
    for domain, pairs in chosen.items():
        wanted[domain].update(pairs["id"].to_pylist())
        for survivor_domain, survivor_id in _survivors(pairs):
            wanted[survivor_domain].add(survivor_id)
    texts: dict[Name, str] = {}
    for domain, ids in wanted.items():
        found = _texts_of(document_files(clean_folders[domain]), ids)
        texts |= {(domain, identifier): text for identifier, text in found.items()}
    for domain, pairs in chosen.items():
        own = [texts[domain, identifier] for identifier in pairs["id"].to_pylist()]
        others = [texts[name] for name in _survivors(pairs)]
        columns = ["id", "survivor_domain", "survivor_id", "jaccard"]
        table = pairs.select(columns).append_column("text", pa.array(own, pa.large_string()))
        table = table.append_column("survivor_text", pa.array(others, pa.large_string()))
        path = folder / pairs_file(domain)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)


def _survivors(pairs: pa.Table) -> Iterable[Name]:
    return zip(pairs["survivor_domain"].to_pylist(), pairs["survivor_id"].to_pylist(), strict=True)


def _texts_of(sources: Sequence[Path], ids: set[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    value_set = pa.array(sorted(ids), pa.string())
    for source in sources:
        with pq.ParquetFile(source) as file:
            for group in range(file.metadata.num_row_groups):
                if len(texts) == len(ids):
                    return texts
                is_wanted = pc.is_in(file.read_row_group(group, columns=["id"])["id"], value_set=value_set)
                if pc.any(is_wanted).as_py():
                    found = file.read_row_group(group, columns=["id", "text"]).filter(is_wanted)
                    texts |= zip(found["id"].to_pylist(), found["text"].to_pylist(), strict=True)
    return texts

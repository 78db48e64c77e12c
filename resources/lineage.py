"""Every snapshot behind one merged model, refused where any does not belong to it.

The report reads snapshots of the whole graph, which other runs published at other times. Before it measures anything,
the chain from the splits to the merged model must be unbroken: a test document of today may be one that yesterday's
adapter was trained on. Text that was delivered since is no part of it: raw and clean corpus are read as they were when
the splits were made. What only has a price (signatures, tokenizer, reference model, perplexity, thresholds) is read as
it is now.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resources.lake import Lake
from resources.snapshot import Snapshot
from resources.upstream import find_made_from, made_from_older, require_made_from
from yunmin_assets.snapshot_files import TRAIN_FILE, WEIGHTS_FILE, decisions_file

DEDUPED_INPUT = re.compile(r"deduped_corpus\[(.+)\]")
"""How the base's manifest names the training documents of a domain."""

GRAPH = {
    "raw_corpus": True,
    "clean_corpus": True,
    "signatures": True,
    "duplicate_clusters": False,
    "deduped_corpus": True,
    "tokenizer": False,
    "reference_model": False,
    "perplexity": True,
    "pruning_thresholds": False,
    "pruned_corpus": True,
    "parquet_shards": True,
    "base_model": False,
    "lora_adapter": True,
    "diff_vector": True,
    "domain_weights": False,
    "merged_model": False,
}
"""Every asset behind the report, upstream first, and whether it has a partition per domain."""


@dataclass(frozen=True)
class Lineage:
    """Every snapshot behind one merged model."""

    over_all: Mapping[str, Snapshot]
    by_domain: Mapping[str, Mapping[str, Snapshot]]
    """Asset → domain → snapshot."""
    loading: Snapshot | None
    """The loading benchmark, when it was measured on these shards; the report does without."""
    joint: Snapshot | None
    """The joint adapter, when it is the control of these adapters; the report does without."""

    @property
    def domains(self) -> list[str]:
        """The domains that were merged."""
        return list(self.by_domain["diff_vector"])

    def all(self) -> Iterator[tuple[str, Snapshot]]:
        """(asset, snapshot), in the order of the graph."""
        for name, is_partitioned in GRAPH.items():
            snapshots = self.by_domain[name].values() if is_partitioned else [self.over_all[name]]
            yield from ((name, snapshot) for snapshot in snapshots)
        if self.joint is not None:
            yield "joint_adapter", self.joint

    def hashes(self) -> dict[str, str]:
        """Input name → content hash, of every snapshot."""
        over_all = {name: snapshot.content_hash for name, snapshot in self.over_all.items()}
        by_domain = {
            f"{name}[{domain}]": snapshot.content_hash
            for name, snapshots in self.by_domain.items()
            for domain, snapshot in snapshots.items()
        }
        optional = {"loading_benchmark": self.loading, "joint_adapter": self.joint}
        return (
            over_all
            | by_domain
            | {name: item.content_hash if item else "" for name, item in optional.items()}
        )

    def metadata(self, asset_name: str, domain: str | None = None) -> Mapping[str, Any]:
        """What a snapshot recorded about itself."""
        snapshot = self.by_domain[asset_name][domain] if domain else self.over_all[asset_name]
        metadata: Mapping[str, Any] = snapshot.manifest.summary["metadata"]
        return metadata


def read_lineage(lake: Lake) -> Lineage:
    """The snapshots behind the current merged model, refusing any that do not belong to it."""
    over_all = {name: lake.current(name) for name, is_partitioned in GRAPH.items() if not is_partitioned}
    merged = over_all["merged_model"]
    require_made_from(merged, "base_model", over_all["base_model"].content_hash)
    require_made_from(merged, "domain_weights", over_all["domain_weights"].content_hash)
    weights = json.loads((over_all["domain_weights"].local / WEIGHTS_FILE).read_text(encoding="utf-8"))[
        "weights"
    ]
    by_domain = {
        name: {domain: lake.current(name, domain) for domain in sorted(weights)}
        for name, is_partitioned in GRAPH.items()
        if is_partitioned
    }
    for upstream, made_from_it in (("clean_corpus", "deduped_corpus"), ("raw_corpus", "clean_corpus")):
        by_domain[upstream] = {
            domain: _behind(lake, snapshot, by_domain[upstream][domain])
            for domain, snapshot in by_domain[made_from_it].items()
        }
    adapters = {
        f"lora_adapter[{domain}]": item.content_hash for domain, item in by_domain["lora_adapter"].items()
    }
    lineage = Lineage(
        over_all,
        by_domain,
        loading_benchmark_of(lake, by_domain["parquet_shards"]),
        find_made_from(lake, "joint_adapter", adapters),
    )
    for domain in lineage.domains:
        _require_unbroken(lineage, domain)
    return lineage


def _behind(lake: Lake, snapshot: Snapshot, current: Snapshot) -> Snapshot:
    """The snapshot that another of its domain was made from: the current one, or an older one of the same asset.

    Raises:
        LakeError: it is no longer in the lake; names the asset to materialize again.
    """
    upstream, domain = current.manifest.asset, current.manifest.domain
    wanted = snapshot.manifest.inputs.get(upstream)
    if current.content_hash == wanted:
        return current
    for version in reversed(lake.versions(upstream, domain)):
        older = lake.open(upstream, domain, version)
        if older.content_hash == wanted:
            return older
    raise made_from_older(snapshot, upstream)


def loading_benchmark_of(lake: Lake, shards: Mapping[str, Snapshot]) -> Snapshot | None:
    """The loading benchmark that was measured on these shards of each domain, if there is one."""
    benchmark = lake.find("loading_benchmark")
    measured_on = benchmark.manifest.inputs if benchmark else {}
    is_current = all(
        measured_on.get(f"parquet_shards[{domain}]") == item.content_hash for domain, item in shards.items()
    )
    return benchmark if is_current else None


def _require_unbroken(lineage: Lineage, domain: str) -> None:
    """Refuse a domain whose current snapshots were not made from one another: its test set may have been trained on.

    Raises:
        LakeError: naming the asset to materialize again.
    """
    own = {name: snapshots[domain] for name, snapshots in lineage.by_domain.items()}
    decisions = lineage.over_all["duplicate_clusters"].file(decisions_file(domain)).sha256
    require_made_from(own["deduped_corpus"], f"duplicate_clusters[{domain}]", decisions)
    require_made_from(
        own["pruned_corpus"], "deduped_corpus train", own["deduped_corpus"].file(TRAIN_FILE).sha256
    )
    for name, upstream in (("parquet_shards", "pruned_corpus"), ("lora_adapter", "parquet_shards")):
        require_made_from(own[name], upstream, own[upstream].content_hash)
    require_made_from(own["diff_vector"], "lora_adapter", own["lora_adapter"].content_hash)
    merged = lineage.over_all["merged_model"]
    require_made_from(merged, f"diff_vector[{domain}]", own["diff_vector"].content_hash)


def splits_behind_base(lineage: Lineage) -> dict[str, str]:
    """Domain → hash of the training documents that the base was trained on; empty for a base from outside."""
    inputs = lineage.over_all["base_model"].manifest.inputs
    return {match[1]: value for name, value in inputs.items() if (match := DEDUPED_INPUT.fullmatch(name))}


def trained_on(lake: Lake, lineage: Lineage) -> dict[str, Snapshot]:
    """By domain, `deduped_corpus` whose training documents base or adapters have seen, as far as this lake knows.

    A domain that the base was trained on may have been removed since.
    """
    found = {domain: lake.find("deduped_corpus", domain) for domain in splits_behind_base(lineage)}
    known = {domain: snapshot for domain, snapshot in found.items() if snapshot is not None}
    return dict(sorted({**known, **lineage.by_domain["deduped_corpus"]}.items()))

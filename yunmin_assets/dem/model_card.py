"""The model card of a merged model: what it was made from, by lineage, and under which licences that text is.

Written as `README.md` beside the weights, in the form that model hubs read. It holds no time and no path of a machine,
so that the same inputs give the same bytes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.dem.config import MergeConfig
from yunmin_assets.documents import ROW_GROUP_DOCUMENTS, SYNTHETIC_SOURCE
from yunmin_assets.parquet_batches import iterate_batches
from yunmin_assets.plots import literal, markdown_table

CARD_FILE = "README.md"
UNKNOWN_LICENCE = "not stated"
SHOWN_HASH = 12

FRONT_MATTER = """\
---
library_name: transformers
pipeline_tag: text-generation
language: [ko]
tags: [merge, dem]
---
"""

METHOD = """\
The base model Θ, edited by the weighted differences Θᵢ − Θ to one model Θᵢ per domain (Distribution Edited Models,
arXiv 2406.15570)."""

HOW = {
    "sum": "Their weighted sum is added, as in the paper: Θ_D = Θ + Σ wᵢ(Θᵢ − Θ).",
    "ties": "Combined by TIES (arXiv 2306.01708), keeping {density:.0%} of each difference.",
    "dare": "Combined by DARE (arXiv 2311.03099), keeping {density:.0%} of each difference at random (seed {seed}).",
    "slerp": "Combined by spherical interpolation between two models.",
}

UNCHANGED = "**This is the base, unchanged**: on validation text no edit was better than none."

SYNTHETIC_NOTICE = (
    "**Some of the training text is synthetic**: written by templates, to show that the platform works. This model "
    "says nothing about what the method gains on real text."
)

LICENCE_NOTICE = (
    "Counted in the documents that were trained on, as their `license` field states it. Which licence the model itself "
    "may have is for its owner to decide; this card does not."
)

USAGE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```
"""


@dataclass(frozen=True)
class TrainingText:
    """What a domain's model was trained on."""

    documents: int
    tokens: int
    licences: Mapping[str, int]
    """Documents by licence."""
    synthetic: bool


@dataclass(frozen=True)
class MergedDomain:
    """One domain's part in a merged model."""

    name: str
    weight: float
    """Of its difference; the mean where every tensor has its own."""
    text: TrainingText
    hashes: Mapping[str, str]
    """Asset → content hash of the domain's snapshot."""


@dataclass(frozen=True)
class MergedBase:
    """The base of a merged model."""

    name: str
    """As its owner calls it."""
    architecture: str
    parameters: int
    content_hash: str


def describe_training_text(paths: Iterable[Path]) -> TrainingText:
    """Count the documents of Parquet files by licence; one batch in memory at a time.

    Args:
        paths: files with the columns `license`, `source` and `n_tokens`, as `parquet_shards` holds them.
    """
    licences: Counter[str] = Counter()
    tokens, synthetic = 0, False
    for path in paths:
        for batch in iterate_batches(path, ["license", "source", "n_tokens"], ROW_GROUP_DOCUMENTS):
            for counted in pc.value_counts(batch["license"]).to_pylist():
                licences[counted["values"] or UNKNOWN_LICENCE] += counted["counts"]
            tokens += pc.sum(batch["n_tokens"]).as_py() or 0
            synthetic = synthetic or _is_synthetic(batch["source"])
    return TrainingText(licences.total(), tokens, dict(sorted(licences.items())), synthetic)


def model_card(base: MergedBase, domains: Sequence[MergedDomain], config: MergeConfig, chosen: str) -> str:
    """The card as Markdown.

    Args:
        config: how the differences were combined.
        chosen: which candidate of the weight search the weights are.
    """
    weights = [(domain.name, domain.weight, domain.text.documents, domain.text.tokens) for domain in domains]
    licences = [
        (domain.name, literal(name), count)
        for domain in domains
        for name, count in domain.text.licences.items()
    ]
    hashes = [
        ("base_model", "", base.content_hash[:SHOWN_HASH]),
        *(
            (asset, domain.name, value[:SHOWN_HASH])
            for domain in domains
            for asset, value in domain.hashes.items()
        ),
    ]
    synthetic = [SYNTHETIC_NOTICE, ""] if any(domain.text.synthetic for domain in domains) else []
    unchanged = [UNCHANGED, ""] if all(domain.weight == 0 for domain in domains) else []
    how = HOW[config.method].format(density=config.kept_share, seed=config.seed)
    lines = [
        f"{FRONT_MATTER}# {literal(base.name)}, edited for {', '.join(domain.name for domain in domains)}",
        "",
        *synthetic,
        *unchanged,
        f"{METHOD} {how}",
        "",
        f"Base: {literal(base.name)} ({base.architecture}, {base.parameters:,} parameters). Weights: {chosen}.",
        "",
        markdown_table(["domain", "weight", "training documents", "training tokens"], weights),
        "",
        "## Use",
        "",
        USAGE,
        "## Licences of the training text",
        "",
        LICENCE_NOTICE,
        "",
        markdown_table(["domain", "licence", "documents"], licences),
        "",
        "## Where it comes from",
        "",
        f"The first {SHOWN_HASH} digits of the SHA-256 of every snapshot it was made from.",
        "",
        markdown_table(["asset", "domain", "content hash"], hashes),
        "",
    ]
    return "\n".join(lines)


def _is_synthetic(sources: pa.Array) -> bool:
    return bool(pc.any(pc.starts_with(sources, SYNTHETIC_SOURCE)).as_py())

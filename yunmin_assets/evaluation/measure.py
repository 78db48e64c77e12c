"""Measure models on held-out documents: perplexity with intervals and verdicts.

Every model scores the same documents, so differences are paired by document and the bootstrap draws
documents. A domain's verdict is corrected for having looked at every domain (Holm).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.kept_results import Keep, Rows, keep_nothing
from yunmin_assets.evaluation.model import BASE, PerplexityCell
from yunmin_assets.paired_bootstrap import (
    PairedDifference,
    bootstrap_perplexity,
    judge,
    paired_difference,
)
from yunmin_assets.progress import Log, silent
from yunmin_assets.pruning.scoring import score_documents

LOSSES_SCHEMA = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("text_hash", pa.string(), nullable=False),
        pa.field("nll", pa.float64(), nullable=False),  # nats, summed over the document
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
    ]
)
"""Every document's loss under every model."""

FEWEST_DOCUMENTS = 20
"""Test documents below which no difference is claimed: fewer say little about a domain, whatever the test says."""


def choose_documents(documents: pa.Table, count: int) -> pa.Table:
    """At most `count` documents, chosen by a hash of their id: the same ones on every machine."""
    ids = documents["id"].to_pylist()
    order = sorted(
        range(len(ids)), key=lambda row: hashlib.blake2b(ids[row].encode(), digest_size=8).digest()
    )
    return documents.take(pa.array(sorted(order[:count]), pa.int64()))


def measure_perplexity(
    documents: Mapping[str, pa.Table],
    models: Mapping[str, Mapping[str, Path]],
    config: EvaluationConfig,
    *,
    keep: Keep = keep_nothing,
    log: Log = silent,
) -> tuple[list[PerplexityCell], pa.Table]:
    """Score each domain's documents with every model and compare with the base.

    Args:
        documents: by domain, tables with `id` and `text`.
        models: by name ("base" must be among them), the model's folder for each domain.
        config: bootstrap options.
        keep: takes each model's losses on each domain.
        log: progress.

    Returns:
        One cell per domain and model, by domain; and every document's loss (`LOSSES_SCHEMA`).

    Raises:
        ValueError: a domain has no test document with a token.
        FloatingPointError: a document's loss is not finite, or a perplexity too large to be written; names both.
    """

    def scored(name: str, domain: str) -> pa.Table:
        rows = keep(
            ("losses", name, domain),
            lambda: _score(documents[domain], models[name][domain], domain, name, config, log),
        )
        return pa.Table.from_pylist(rows, LOSSES_SCHEMA)

    losses = {name: {domain: scored(name, domain) for domain in documents} for name in models}
    cells = {name: _cells(name, losses[name], losses[BASE], config) for name in models}
    in_order = [(name, domain) for domain in documents for name in models]
    every_loss = pa.concat_tables([losses[name][domain] for name, domain in in_order])
    return [cells[name][domain] for name, domain in in_order], every_loss


def _score(
    documents: pa.Table, folder: Path, domain: str, model: str, config: EvaluationConfig, log: Log
) -> Rows:
    """The loss of every document that has a token (`LOSSES_SCHEMA`)."""
    what = f"{model} on {domain}"
    scores = score_documents(
        documents,
        folder,
        config.token_budget,
        max_length=config.max_length,
        log=lambda line: log(f"{what}: {line}"),
    )
    hashes = [
        hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in documents["text"].to_pylist()
    ]
    losses = scores.select(["id", "nll", "n_tokens", "n_bytes"]).append_column("text_hash", pa.array(hashes))
    losses = losses.filter(pc.greater(losses["n_tokens"], 0))
    if not losses.num_rows:
        raise ValueError(f"{what}: no test document has a token; raise splits.test or deliver more text")
    return [{"domain": domain, "model": model, **row} for row in losses.to_pylist()]


def _cautious(difference: PairedDifference, documents: int) -> PairedDifference:
    """A bootstrap over a handful of documents is far too sure of itself: it gets no verdict."""
    return difference if documents >= FEWEST_DOCUMENTS else replace(difference, p_value=1.0)


def _column(losses: pa.Table, name: str) -> np.ndarray:
    return losses[name].to_numpy()


def _cells(
    name: str, losses: Mapping[str, pa.Table], base: Mapping[str, pa.Table], config: EvaluationConfig
) -> dict[str, PerplexityCell]:
    """One cell per domain, compared with the base unless it is the base."""
    options = (config.bootstrap_samples, config.confidence, config.seed)
    compared = {}
    if name != BASE:
        compared = {
            domain: paired_difference(
                _column(own, "nll"), _column(base[domain], "nll"), _column(own, "n_tokens"), *options
            )
            for domain, own in losses.items()
        }
    verdicts = judge(
        {domain: _cautious(each, losses[domain].num_rows) for domain, each in compared.items()},
        config.confidence,
    )
    comparisons = {
        domain: {
            "difference": difference.difference,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "verdict": verdicts[domain][0],
            "p_value": verdicts[domain][1],
        }
        for domain, difference in compared.items()
    }
    return {
        domain: _cell(domain, name, own, options, comparisons.get(domain, {}))
        for domain, own in losses.items()
    }


def _cell(
    domain: str,
    model: str,
    losses: pa.Table,
    options: tuple[int, float, int],
    comparison: Mapping[str, Any],
) -> PerplexityCell:
    """Perplexity with its interval, and what the comparison with the base said."""
    nll, n_tokens = _column(losses, "nll"), _column(losses, "n_tokens")
    with np.errstate(over="ignore", invalid="ignore"):
        interval = bootstrap_perplexity(nll, n_tokens, *options)
    if not np.isfinite(interval.high):
        raise FloatingPointError(
            f"{model} on {domain} loses {nll.sum() / n_tokens.sum():,.0f} nats per token, too much for a perplexity: "
            "train or merge that model again"
        )
    return PerplexityCell(
        domain=domain,
        model=model,
        perplexity=interval.perplexity,
        low=interval.low,
        high=interval.high,
        bits_per_byte=float(nll.sum() / np.log(2) / _column(losses, "n_bytes").sum()),
        documents=losses.num_rows,
        tokens=int(n_tokens.sum()),
        **comparison,
    )

"""Measure models on held-out documents: perplexity with intervals and verdicts, and what they write.

Every model scores the same documents, so differences are paired by document and the bootstrap draws
documents. A domain's verdict is corrected for having looked at every domain (Holm).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.model import BASE, Generation, PerplexityCell
from yunmin_assets.language_model.generation import generate
from yunmin_assets.paired_bootstrap import (
    PairedDifference,
    bootstrap_perplexity,
    judge,
    paired_difference,
)
from yunmin_assets.progress import Log, silent
from yunmin_assets.pruning.scoring import score_documents

FEWEST_DOCUMENTS = 20
"""Test documents below which no difference is claimed: with 5, one in six null differences looks real."""
NO_REPEAT_TOKENS = 4
"""Small models fall into loops; a run of four tokens is written once."""


@dataclass(frozen=True)
class Prompt:
    """One line of the prompts file."""

    id: str
    kind: str
    prompt: str
    domain: str | None = None


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
    log: Log = silent,
) -> list[PerplexityCell]:
    """Score each domain's documents with every model and compare with the base.

    Args:
        documents: by domain, tables with `id` and `text`.
        models: by name ("base" must be among them), the model's folder for each domain.
        config: bootstrap options.
        log: progress.

    Returns:
        One cell per domain and model, by domain.

    Raises:
        ValueError: a domain has no test document with a token.
    """
    losses = {
        name: {
            domain: _score(table, folders[domain], config, f"{name} on {domain}", log)
            for domain, table in documents.items()
        }
        for name, folders in models.items()
    }
    cells = {name: _cells(name, losses[name], losses[BASE], config) for name in models}
    return [cells[name][domain] for domain in documents for name in models]


def read_prompts(path: Path) -> list[Prompt]:
    """Read the prompts file.

    Raises:
        ValueError: a line is no JSON object with id, kind and prompt; names the file and the line.
    """
    prompts = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            prompts.append(Prompt(record["id"], record["kind"], record["prompt"], record.get("domain")))
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: needs a JSON object with id, kind and prompt ({error!r})"
            ) from error
    return prompts


def generate_continuations(
    models: Mapping[str, Path], prompts: Sequence[Prompt], config: EvaluationConfig, *, log: Log = silent
) -> list[Generation]:
    """What every model writes after each prompt: greedy, without repeating four tokens."""
    texts = [prompt.prompt for prompt in prompts]
    written = {
        name: generate(
            folder, texts, config.max_new_tokens, config.seed, no_repeat_ngram=NO_REPEAT_TOKENS, log=log
        )
        for name, folder in models.items()
    }
    return [
        Generation(
            prompt_id=prompt.id,
            kind=prompt.kind,
            prompt=prompt.prompt,
            domain=prompt.domain,
            continuations={name: texts[place] for name, texts in written.items()},
        )
        for place, prompt in enumerate(prompts)
    ]


@dataclass(frozen=True)
class _Losses:
    nll: np.ndarray
    n_tokens: np.ndarray
    n_bytes: int


def _score(documents: pa.Table, folder: Path, config: EvaluationConfig, what: str, log: Log) -> _Losses:
    scores = score_documents(
        documents,
        folder,
        config.token_budget,
        max_length=config.max_length,
        log=lambda line: log(f"{what}: {line}"),
    )
    has_tokens = scores["n_tokens"].to_numpy() > 0
    if not has_tokens.any():
        raise ValueError(f"{what}: no test document has a token; raise splits.test or deliver more text")
    return _Losses(
        scores["nll"].to_numpy()[has_tokens],
        scores["n_tokens"].to_numpy()[has_tokens],
        int(scores["n_bytes"].to_numpy()[has_tokens].sum()),
    )


def _cautious(difference: PairedDifference, own: _Losses) -> PairedDifference:
    """A bootstrap over a handful of documents is far too sure of itself: it gets no verdict."""
    return difference if len(own.nll) >= FEWEST_DOCUMENTS else replace(difference, p_value=1.0)


def _cells(
    name: str, losses: Mapping[str, _Losses], base: Mapping[str, _Losses], config: EvaluationConfig
) -> dict[str, PerplexityCell]:
    options = (config.bootstrap_samples, config.confidence, config.seed)
    compared = {}
    if name != BASE:
        compared = {
            domain: paired_difference(own.nll, base[domain].nll, own.n_tokens, *options)
            for domain, own in losses.items()
        }
    verdicts = judge(
        {domain: _cautious(each, losses[domain]) for domain, each in compared.items()}, config.confidence
    )
    cells = {}
    for domain, own in losses.items():
        interval = bootstrap_perplexity(own.nll, own.n_tokens, *options)
        difference = compared.get(domain)
        verdict, p_value = verdicts.get(domain, (None, None))
        cells[domain] = PerplexityCell(
            domain=domain,
            model=name,
            perplexity=interval.perplexity,
            low=interval.low,
            high=interval.high,
            bits_per_byte=float(own.nll.sum() / np.log(2) / own.n_bytes),
            documents=len(own.nll),
            tokens=int(own.n_tokens.sum()),
            difference=difference.difference if difference else None,
            difference_low=difference.low if difference else None,
            difference_high=difference.high if difference else None,
            p_value=p_value,
            verdict=verdict,
        )
    return cells

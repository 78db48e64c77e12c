"""Which documents are kept, given their perplexities (arXiv 2405.20541, section 2 and figure 1).

`low`, `medium` and `high` keep the first, middle and last part of the documents ordered by perplexity; `random` is
the control that orders them by lot and keeps the first; `none` keeps all. In any order equals follow their id and
then their domain, so the same scores give the same selection in any row order. What is kept is one stretch of that
order, told exactly by its first and last document: a *cut*.

Price: 8 bytes of memory per document of all domains that are ordered together, and a copy of them.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.parquet_batches import iterate_batches
from yunmin_assets.pruning.config import Criterion, PruningConfig
from yunmin_assets.pruning.reading import ROWS_AT_ONCE, column_values

LOT_BITS = 53  # as many as a float64 holds exactly

Keys = NDArray[np.float64]
"""By row, what documents are ordered by; NaN without tokens."""
Mask = NDArray[np.bool_]


class Place(NamedTuple):
    """A document's place in its domain's order."""

    key: float
    """Its perplexity; for `random` its lot."""
    id: str


class Cut(ConfigModel):
    """The documents of one domain that are kept: those from `lowest` to `highest`, both included."""

    criterion: Criterion
    seed: int
    """Of the lots."""
    scored: int
    """Documents of the domain with a perplexity."""
    kept: int
    """How many documents are kept."""
    lowest: Place | None
    """None: nothing is kept, or, with `none`, everything."""
    highest: Place | None


class Scores(Protocol):
    """Scores of one domain, wherever they are."""

    def perplexities(self) -> Keys:
        """By row; NaN without tokens."""

    def lots(self, seed: int) -> Keys:
        """By row, a number in [0, 1)."""

    def ids(self, rows: Mask) -> list[str]:
        """Of some rows."""


@dataclass(frozen=True)
class ScoreTable:
    """Scores in memory: columns `id` and `perplexity`."""

    table: pa.Table

    def perplexities(self) -> Keys:
        return self.table["perplexity"].to_numpy().astype(np.float64)

    def lots(self, seed: int) -> Keys:
        return draw_lots(self.table["id"].to_pylist(), seed)

    def ids(self, rows: Mask) -> list[str]:
        return list(self.table["id"].filter(pa.array(rows)).to_pylist())


@dataclass(frozen=True)
class ScoreFile:
    """Scores in a Parquet file; some rows are in memory at a time."""

    path: Path

    def perplexities(self) -> Keys:
        return column_values(self.path, "perplexity")

    def lots(self, seed: int) -> Keys:
        batches = iterate_batches(self.path, ["id"], ROWS_AT_ONCE)
        return np.concatenate([np.empty(0), *(draw_lots(batch["id"].to_pylist(), seed) for batch in batches)])

    def ids(self, rows: Mask) -> list[str]:
        found, start = list[str](), 0
        for batch in iterate_batches(self.path, ["id"], ROWS_AT_ONCE):
            inside = pa.array(rows[start : start + batch.num_rows])
            found += batch["id"].filter(inside).to_pylist()
            start += batch.num_rows
        return found


@dataclass(frozen=True)
class Selection:
    """The outcome: a mask over the rows of the scores, and where the cuts fell."""

    kept: Mask
    """bool, one per row of the scores."""
    lowest_kept: float | None
    """Smallest perplexity among the kept documents; None when none of them has one."""
    highest_kept: float | None
    removed: dict[str, int]
    """Documents removed, by reason."""


def select_documents(scores: pa.Table, config: PruningConfig) -> Selection:
    """Decide which documents of one domain are kept.

    Args:
        scores: Columns `id` and `perplexity`; a null perplexity marks a document without tokens, which only
            the criterion `none` keeps.
        config: Criterion, rate and, for `random`, seed.

    Returns:
        Rate × scored documents (rounded half up, at least one) are kept.

    Raises:
        ValueError: A perplexity is not finite; names the document.
    """
    cut = find_cuts({"": ScoreTable(scores)}, config)[""]
    kept = is_kept(scores, cut)
    of_kept = scores["perplexity"].filter(pa.array(kept)).drop_null().to_numpy()
    reasons = [reason for reason in removal_reasons(scores, cut).to_pylist() if reason is not None]
    return Selection(
        kept,
        float(of_kept.min()) if len(of_kept) else None,
        float(of_kept.max()) if len(of_kept) else None,
        {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
    )


def find_cuts(scores: Mapping[str, Scores], config: PruningConfig) -> dict[str, Cut]:
    """Where each domain is cut.

    With `thresholds: per_domain` a domain's cut depends on nothing but its own scores. With `global` all documents
    are ordered together, and the rate is that of all.

    Args:
        scores: By domain.
        config: Criterion, rate, thresholds and, for `random`, seed.

    Raises:
        ValueError: A perplexity is not finite; names the document and the domain.
    """
    if config.thresholds == "global":
        return _cut_together(scores, config)
    return {domain: _cut_together({domain: own}, config)[domain] for domain, own in scores.items()}


def require_something_of_each(cuts: Mapping[str, Cut]) -> None:
    """Refuse cuts which leave nothing of a domain that has documents with a perplexity.

    Raises:
        ValueError: Names the domains and the cure.
    """
    emptied = sorted(domain for domain, cut in cuts.items() if cut.scored and not cut.kept)
    if emptied:
        raise ValueError(
            f"nothing would be left of {', '.join(emptied)}, whose documents all lie outside the "
            f"{cuts[emptied[0]].criterion} part of all domains together: raise pruning.selection_rate, or set "
            "pruning.thresholds to per_domain"
        )


def is_kept(scores: pa.Table, cut: Cut) -> Mask:
    """Which rows of a table (columns `id` and `perplexity`) lie within the cut of their domain."""
    if cut.criterion == "none":
        return np.ones(scores.num_rows, bool)
    if cut.lowest is None or cut.highest is None:
        return np.zeros(scores.num_rows, bool)
    keys = _keys(ScoreTable(scores), cut.criterion, cut.seed)
    kept = (keys > cut.lowest.key) & (keys < cut.highest.key)
    for row in np.flatnonzero((keys == cut.lowest.key) | (keys == cut.highest.key)):
        kept[row] = cut.lowest <= Place(float(keys[row]), scores["id"][int(row)].as_py()) <= cut.highest
    return kept


def removal_reasons(scores: pa.Table, cut: Cut) -> pa.Array:
    """By row, why a document goes; null if it stays."""
    kept, without_tokens = pa.array(is_kept(scores, cut)), pc.is_null(scores["perplexity"]).combine_chunks()
    reason = pc.if_else(without_tokens, "no tokens", f"outside the {cut.criterion} part")
    return pc.if_else(kept, pa.scalar(None, pa.string()), reason)


def draw_lots(ids: list[str], seed: int) -> Keys:
    """A number in [0, 1) for each document that depends on nothing but its id and the seed."""
    digests = [
        hashlib.blake2b(f"{seed}/{identifier}".encode(), person=b"random-control").digest()[:8]
        for identifier in ids
    ]
    drawn = np.frombuffer(b"".join(digests), ">u8") >> np.uint64(64 - LOT_BITS)
    return drawn.astype(np.float64) / 2**LOT_BITS


def _keys(scores: Scores, criterion: Criterion, seed: int) -> Keys:
    perplexities = scores.perplexities()
    return (
        np.where(np.isnan(perplexities), np.nan, scores.lots(seed)) if criterion == "random" else perplexities
    )


def _cut_together(scores: Mapping[str, Scores], config: PruningConfig) -> dict[str, Cut]:
    """Order the documents of some domains together and cut out the stretch that is kept."""
    keys = {domain: _keys(own, config.criterion, config.seed) for domain, own in scores.items()}
    for domain, own in keys.items():
        _require_finite(domain, own, scores[domain])
    everything = np.concatenate([np.empty(0), *keys.values()])
    everything = everything[~np.isnan(everything)]
    stretch = None
    if config.criterion != "none" and len(everything):
        first, last = _ranks(len(everything), config)
        everything.partition([first, last])
        stretch = tuple(_document_at(rank, everything, keys, scores) for rank in (first, last))
    return {domain: _own_cut(domain, keys[domain], scores[domain], stretch, config) for domain in scores}


def _ranks(scored: int, config: PruningConfig) -> tuple[int, int]:
    """The first and the last place that is kept."""
    count = min(scored, max(1, math.floor(config.selection_rate * scored + 0.5)))
    first_of = {"low": 0, "random": 0, "medium": (scored - count) // 2, "high": scored - count}
    first = first_of[config.criterion]
    return first, first + count - 1


_Document = tuple[float, str, str]
"""Key, id and domain: what documents are ordered by."""


def _document_at(
    rank: int, partitioned: Keys, keys: Mapping[str, Keys], scores: Mapping[str, Scores]
) -> _Document:
    """Who has a rank; `partitioned` has the right key there."""
    key = partitioned[rank]
    equals = sorted((name, domain) for domain in keys for name in scores[domain].ids(keys[domain] == key))
    before = sum(int(np.count_nonzero(own < key)) for own in keys.values())
    return (float(key), *equals[rank - before])


def _own_cut(
    domain: str, keys: Keys, scores: Scores, stretch: tuple[_Document, ...] | None, config: PruningConfig
) -> Cut:
    """The part of the stretch that belongs to a domain, told by the domain's own first and last document."""
    scored = int(np.count_nonzero(~np.isnan(keys)))
    fixed = {"criterion": config.criterion, "seed": config.seed, "scored": scored}
    if stretch is None:
        kept = len(keys) if config.criterion == "none" else 0
        return Cut(**fixed, kept=kept, lowest=None, highest=None)
    first, last = stretch
    inside = (keys > first[0]) & (keys < last[0])
    at_ends = (keys == first[0]) | (keys == last[0])
    for row, name in zip(np.flatnonzero(at_ends), scores.ids(at_ends), strict=True):
        inside[row] = first <= (float(keys[row]), name, domain) <= last
    if not inside.any():
        return Cut(**fixed, kept=0, lowest=None, highest=None)
    ends = keys[inside].min(), keys[inside].max()
    lowest, highest = (
        choose(scores.ids(inside & (keys == end))) for choose, end in zip((min, max), ends, strict=True)
    )
    return Cut(
        **fixed,
        kept=int(np.count_nonzero(inside)),
        lowest=Place(float(ends[0]), lowest),
        highest=Place(float(ends[1]), highest),
    )


def _require_finite(domain: str, keys: Keys, scores: Scores) -> None:
    for row in np.flatnonzero(np.isinf(keys))[:1]:
        name = scores.ids(np.arange(len(keys)) == row)[0]
        where = f" of {domain}" if domain else ""
        raise ValueError(f"document {name!r}{where} has perplexity {keys[row]}: score it again")

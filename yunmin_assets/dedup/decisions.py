"""Which documents stay: exact duplicates first, then near-duplicates by verified MinHash LSH.

The steps, over all domains at once (near-duplicates cross sources):

1. Put the documents in priority order: domain priority, quality, length, id.
2. Collapse exact duplicates (128-bit hash of the normalised text) onto the first of them.
3. Group the rest by band keys; only documents that meet another one, the candidates, go on.
4. Hash the candidates' shingles once and decide by exact Jaccard (`survivors`).

Everything after step 1 happens in priority order, so the decisions depend neither on the order of the
input nor on the number of threads. All of it is in memory: about 16 · bands + 4 · permutations bytes per
document, and the candidates' shingles. `clusters` does the same in batches, with a budget.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.dedup.buckets import find_buckets
from yunmin_assets.dedup.checks import check_documents
from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.shingle_sets import shingle_sets
from yunmin_assets.dedup.signatures import Signatures, compute_signatures
from yunmin_assets.dedup.survivors import choose_survivors
from yunmin_assets.progress import Log, silent

DECISION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("cluster_id", pa.string(), nullable=False),
        pa.field("survivor_id", pa.string(), nullable=False),
        pa.field("jaccard", pa.float64(), nullable=False),
    ]
)

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Survival:
    """What becomes of n documents.

    Attributes:
        survivors: int64[n], the row that each one gives way to; its own if it stays.
        jaccards: float64[n], exact, to the survivor; 1.0 to itself.
        exact: bool[n], whether it gives way to a document with the same normalised text.
    """

    survivors: Indices
    jaccards: npt.NDArray[np.float64]
    exact: npt.NDArray[np.bool_]

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """bool[n], who stays."""
        return self.survivors == np.arange(self.survivors.size)


def deduplicate(documents: pa.Table, config: DedupConfig, *, log: Log = silent) -> pa.Table:
    """Decide for every document whether it stays.

    Args:
        documents: `id` string and `text` string or large_string, without nulls; optionally `domain`
            (string, ranked by `config.domain_priority`) and `quality` (a number; higher survives, null
            and NaN rank last). Other columns are ignored.
        config: what counts as a near-duplicate and who survives.
        log: gets a line per step and progress at a steady pace.

    Returns:
        One row per document in input order, with `DECISION_SCHEMA`: `kept`; `survivor_id`, the document
        it gave way to (itself if kept); `cluster_id`, the survivor's id; `jaccard`, the exact Jaccard of
        the two shingle sets (1.0 for itself and for exact duplicates). An empty text is a duplicate of
        every other empty text and of nothing else. With `verify="none"` sharing one band key is enough,
        whatever the Jaccard.

    Raises:
        ValueError: a column is missing, an id is repeated (up to five are named), an id or a text is null,
            or a text is not UTF-8.
        TypeError: a column has a type that cannot be used.

    Example:
        >>> documents = pa.table({"id": ["a", "b"], "text": ["Same text.", "same  TEXT"]})
        >>> deduplicate(documents, DedupConfig())["kept"].to_pylist()
        [True, False]
    """
    check_documents(documents, config)
    signatures = compute_signatures(documents["text"], config, log=log)
    return decide(documents, signatures, config, log=log)


def decide(
    documents: pa.Table, signatures: Signatures, config: DedupConfig, *, log: Log = silent
) -> pa.Table:
    """`deduplicate` with signatures that are already there (`compute_signatures`, `read_signatures`).

    Raises:
        ValueError: as `deduplicate`, or the signatures are not those of the documents.
    """
    check_documents(documents, config)
    expected = (documents.num_rows, config.num_perm)
    if signatures.minhash.shape != expected or len(signatures.band_keys) != config.bands:
        raise ValueError(
            f"{documents.num_rows:,} documents and {config.bands} bands of {config.rows} rows do not fit "
            f"signatures of shape {signatures.minhash.shape}: compute the signatures again"
        )
    found = config.collision_probability(config.threshold)
    log(f"{config.bands} bands × {config.rows} rows find {found:.2%} of pairs at Jaccard {config.threshold}")
    survival = choose(documents, signatures, config, log=log)
    exact, removed = int(survival.exact.sum()), int((~survival.kept).sum())
    log(
        f"{documents.num_rows - removed:,} of {documents.num_rows:,} documents stay; {exact:,} are exact and "
        f"{removed - exact:,} near-duplicates"
    )
    survivor_ids = documents["id"].take(pa.array(survival.survivors))
    columns = [documents["id"], survival.kept, survivor_ids, survivor_ids, survival.jaccards]
    return pa.table(columns, names=DECISION_SCHEMA.names).cast(DECISION_SCHEMA)


def choose(
    documents: pa.Table,
    signatures: Signatures,
    config: DedupConfig,
    *,
    scratch: Path | None = None,
    log: Log = silent,
) -> Survival:
    """The core: who survives among documents that meet nobody else.

    Args:
        documents: id, text, and optionally domain and quality, as for `deduplicate`. A text may be null if
            another document with the same text hash has it.
        signatures: of the documents; minhash and band keys only of those whose text is there, in order.
        config: what counts as a near-duplicate and who survives.
        scratch: folder for shingle sets that do not fit into the memory budget.
        log: progress.
    """
    order = _priority_order(documents, signatures, config)
    first_of_text = _first_of_text(signatures.text_hash[order])
    distinct = np.flatnonzero(first_of_text == np.arange(order.size))
    survivors, jaccards = _choose_distinct(documents, signatures, order[distinct], config, scratch, log)

    place_among_distinct = np.searchsorted(distinct, first_of_text)
    survival = Survival(np.empty(order.size, np.int64), np.empty(order.size), np.empty(order.size, np.bool_))
    survivor_places = distinct[survivors][place_among_distinct]
    survival.survivors[order] = order[survivor_places]
    survival.jaccards[order] = jaccards[place_among_distinct]
    survival.exact[order] = (first_of_text == survivor_places) & (survivor_places != np.arange(order.size))
    return survival


def _choose_distinct(
    documents: pa.Table,
    signatures: Signatures,
    rows: Indices,
    config: DedupConfig,
    scratch: Path | None,
    log: Log,
) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Survivors and Jaccards among the distinct texts `rows`, which are in priority order.

    Returns:
        survivors: int64[len(rows)], places in `rows`. jaccards: float64[len(rows)].
    """
    texts = documents["text"]
    rows_with_text = _rows_with_text(texts, signatures.text_hash)[rows]
    buckets = find_buckets(signatures.band_keys[:, _places_among_texts(texts, rows_with_text)])
    log(f"{rows.size:,} distinct texts, {buckets.candidates.size:,} share a band with another one")
    candidate_rows = rows_with_text[buckets.candidates]
    sets = shingle_sets(texts, candidate_rows, signatures.shingles, config, log, scratch=scratch)
    threshold = config.threshold if config.verify == "exact" else 0.0
    candidate_survivors, candidate_jaccards = choose_survivors(buckets, sets, threshold, config.survivors)
    survivors = np.arange(rows.size)
    jaccards = np.ones(rows.size)
    survivors[buckets.candidates] = buckets.candidates[candidate_survivors]
    jaccards[buckets.candidates] = candidate_jaccards
    return survivors, jaccards


def _rows_with_text(texts: pa.ChunkedArray, text_hash: npt.NDArray[np.uint64]) -> Indices:
    """For every row one whose text is there, and the same: int64[n]."""
    rows = np.arange(len(texts))
    if not texts.null_count:
        return rows
    with_text_first = np.argsort(texts.is_null().to_numpy(), kind="stable")
    rows[with_text_first] = with_text_first[_first_of_text(text_hash[with_text_first])]
    return rows


def _places_among_texts(texts: pa.ChunkedArray, rows: Indices) -> Indices:
    """How many texts are there before each row."""
    if not texts.null_count:
        return rows
    return np.cumsum(texts.is_valid().to_numpy())[rows] - 1


def _priority_order(documents: pa.Table, signatures: Signatures, config: DedupConfig) -> Indices:
    """Rows from the best to the worst: by domain priority, quality, characters of the text, id."""
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    if config.domain_priority:
        ranks = pc.index_in(documents["domain"], value_set=pa.array(config.domain_priority))
        columns["domain"] = pc.fill_null(ranks, len(config.domain_priority))
    if "quality" in documents.column_names:
        quality = pc.fill_null(documents["quality"].cast(pa.float64()), -np.inf)
        columns["quality"] = pc.negate(pc.if_else(pc.is_nan(quality), -np.inf, quality))
    columns["characters"] = pa.array(-signatures.characters)
    columns["id"] = documents["id"]
    keys = [(name, "ascending") for name in columns]
    return pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy().astype(np.int64)


def _first_of_text(text_hash: npt.NDArray[np.uint64]) -> Indices:
    """For every document the first with the same text: uint64[n, 2] → int64[n]."""
    order = np.lexsort((text_hash[:, 1], text_hash[:, 0]))  # stable: equal texts stay in their order
    ordered = text_hash[order]
    begins = np.flatnonzero(np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])[: len(order)])
    first = np.empty(order.size, np.int64)
    first[order] = np.repeat(order[begins], np.diff(begins, append=order.size))
    return first

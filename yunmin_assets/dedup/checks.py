"""Refuse documents that cannot be deduplicated, before any time is spent on them."""

import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.dedup.config import DedupConfig

REPEATED_IDS_NAMED = 5


def check_documents(documents: pa.Table, config: DedupConfig) -> None:
    """Check the columns, their types, nulls, and that every id is there once.

    Raises:
        ValueError: a column is missing, holds a null, or an id is repeated.
        TypeError: a column has a type that cannot be used.
    """
    _check_columns(documents, config)
    for column in ("id", "text"):
        _refuse_nulls(documents, column)
    ids = documents["id"]
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counted = ids.value_counts()
    repeated = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    named = ", ".join(repr(name) for name in repeated[:REPEATED_IDS_NAMED].to_pylist())
    raise ValueError(f"{len(repeated):,} ids occur more than once, such as {named}: make the ids unique")


def check_texts(texts: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """`texts` as a chunked array of string or large_string without nulls.

    Raises:
        TypeError: another type. ValueError: a null, with its row.
    """
    chunked = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])
    if not _is_string(chunked.type):
        raise TypeError(f"column 'text' is {chunked.type}: cast it to string or large_string")
    _refuse_nulls(pa.table({"text": chunked}), "text")
    return chunked


def _check_columns(documents: pa.Table, config: DedupConfig) -> None:
    needed = {"id", "text"} | ({"domain"} if config.domain_priority else set())
    missing = sorted(needed.difference(documents.column_names))
    if missing:
        raise ValueError(
            f"documents have no column {', '.join(missing)}, only {', '.join(documents.column_names)}"
        )
    for column in sorted(needed):
        kind = documents.schema.field(column).type
        if not _is_string(kind):
            raise TypeError(f"column {column!r} is {kind}: cast it to string or large_string")
    if "quality" in documents.column_names:
        kind = documents.schema.field("quality").type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise TypeError(f"column 'quality' is {kind}: cast it to float64")


def _refuse_nulls(documents: pa.Table, column: str) -> None:
    nulls = documents[column].null_count
    if nulls:
        row = documents[column].is_null().to_numpy().argmax()
        name = f" (id {documents['id'][row].as_py()!r})" if "id" in documents.column_names else ""
        raise ValueError(
            f"column {column!r} has {nulls:,} nulls, the first in row {row}{name}: fill or drop them"
        )


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

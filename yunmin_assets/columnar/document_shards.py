"""The *documents* product: the text that was trained on, with its token counts, as Parquet.

    shard-00000.parquet  id, text, source, lang, domain, license, meta, n_tokens
    shard-00001.parquet  …

zstd-3, row groups of 1024 documents, page index and page checksums. Columns that earlier stages added stay in
the snapshots of those stages.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from yunmin_assets.columnar.manifest import shard_name
from yunmin_assets.documents import DOCUMENT_SCHEMA, ROW_GROUP_DOCUMENTS, write_documents
from yunmin_assets.files import new_folder

DOCUMENTS_PER_SHARD = 64 * ROW_GROUP_DOCUMENTS
TOKEN_COUNT_FIELD = pa.field("n_tokens", pa.int32(), nullable=False)


def write_document_shards(documents: pa.Table, token_counts: Sequence[int], folder: Path) -> list[Path]:
    """Write documents with a column `n_tokens` as Parquet shards.

    Args:
        documents: a table with the columns of `DOCUMENT_SCHEMA`; others are left out.
        token_counts: tokens of each document, without the end-of-text token.
        folder: folder to create.

    Returns:
        The files, in the order of the documents; one empty shard for no documents.

    Raises:
        ValueError: the counts do not match the documents, or a column is missing.
        FileExistsError: `folder` already holds something.
    """
    if len(token_counts) != documents.num_rows:
        raise ValueError(f"{len(token_counts)} token counts for {documents.num_rows} documents")
    missing = [name for name in DOCUMENT_SCHEMA.names if name not in documents.column_names]
    if missing:
        raise ValueError(f"documents lack the columns {missing}")
    table = documents.select(DOCUMENT_SCHEMA.names).cast(DOCUMENT_SCHEMA)
    table = table.append_column(TOKEN_COUNT_FIELD, pa.array(token_counts, TOKEN_COUNT_FIELD.type))
    with new_folder(folder) as part:
        starts = range(0, max(table.num_rows, 1), DOCUMENTS_PER_SHARD)
        names = [shard_name(number) for number in range(len(starts))]
        for name, start in zip(names, starts, strict=True):
            write_documents(table.slice(start, DOCUMENTS_PER_SHARD), part / name)
    return [folder / name for name in names]

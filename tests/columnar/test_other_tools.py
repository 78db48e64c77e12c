"""What we write is plain Parquet: pyarrow, polars and DuckDB read the same rows from it as our own readers."""

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from yunmin_assets.columnar.document_reader import read_document_batches
from yunmin_assets.columnar.document_shards import SHARD_SCHEMA, WRITE_OPTIONS
from yunmin_assets.columnar.packed_store import open_store


def columns_by_pyarrow(paths, columns):
    table = pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
    return [table[name].to_pylist() for name in columns]


def columns_by_polars(paths, columns):
    frame = polars.concat([polars.read_parquet(path, columns=columns) for path in paths])
    return [frame[name].to_list() for name in columns]


def columns_by_duckdb(paths, columns):
    names = ", ".join(columns)
    rows = duckdb.execute(
        f"SELECT {names} FROM read_parquet($paths, filename = true) ORDER BY filename, file_row_number",
        {"paths": [str(path) for path in paths]},
    ).fetchall()
    return [list(column) for column in zip(*rows, strict=True)]


TOOLS = [columns_by_pyarrow, columns_by_polars, columns_by_duckdb]


@pytest.mark.parametrize("read_columns", TOOLS)
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_packed_rows_are_the_same_by_every_tool(tmp_path, pack, make_documents, compression, read_columns):
    pack(tmp_path / "data", make_documents(200), compression=compression)
    paths = sorted((tmp_path / "data").glob("*.parquet"))
    tokens, starts, domains = read_columns(paths, ["tokens", "doc_start", "domain"])
    store = open_store(tmp_path / "data")
    row = 0
    for page in range(len(store.page_rows)):
        found = store.read_page(page, store.buffer())
        is_start = np.zeros((len(found.tokens), 16), np.bool_)
        is_start.reshape(-1)[found.starts] = True
        for own_tokens, own_starts in zip(found.tokens, is_start, strict=True):
            assert np.frombuffer(tokens[row], "<u2").tolist() == own_tokens.tolist()
            assert list(starts[row]) == np.flatnonzero(own_starts).tolist()
            assert domains[row] == "novels"
            row += 1
    assert len(paths) > 1
    assert row == len(tokens) == store.manifest.rows


@pytest.mark.parametrize("read_columns", TOOLS)
def test_documents_are_the_same_by_every_tool(tmp_path, read_columns):
    documents = [
        {
            "id": f"novels-{number}",
            "text": f"{number}번째 이야기: 산 너머 강이 흐른다. \U0001f30a\n" * (number % 7 + 1),
            "source": None if number % 3 else "synthetic:test",
            "lang": "ko",
            "domain": "novels",
            "license": None,
            "meta": '{"쪽": 1}',
            "n_tokens": number,
        }
        for number in range(3000)
    ]
    table = pa.Table.from_pylist(documents, SHARD_SCHEMA)
    paths = [tmp_path / "shard-00000.parquet", tmp_path / "shard-00001.parquet"]
    for path, part in zip(paths, (table.slice(0, 2000), table.slice(2000)), strict=True):
        pq.write_table(part, path, row_group_size=1024, **WRITE_OPTIONS)
    ours = pa.Table.from_batches(read_document_batches(tmp_path)).to_pylist()
    assert ours == documents
    columns = read_columns(paths, SHARD_SCHEMA.names)
    assert [dict(zip(SHARD_SCHEMA.names, row, strict=True)) for row in zip(*columns, strict=True)] == ours

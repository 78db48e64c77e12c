import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from yunmin_assets.columnar import document_shards
from yunmin_assets.columnar.document_shards import (
    DocumentShardWriter,
    count_documents,
    token_count_histogram,
)
from yunmin_assets.documents import DOCUMENT_SCHEMA


def documents(count, text="값"):
    columns = {name: ["값"] * count for name in DOCUMENT_SCHEMA.names}
    columns |= {"id": [str(number) for number in range(count)], "text": [text] * count}
    columns["license"] = [None] * count
    return pa.RecordBatch.from_pydict(columns, schema=DOCUMENT_SCHEMA)


def write(path, batches, token_counts):
    with DocumentShardWriter(path, tokenizer_hash="17c0") as shard:
        for batch, counts in zip(batches, token_counts, strict=True):
            shard.write(batch, np.array(counts, np.int32))
    return path


def test_pyarrow_reads_the_documents_and_their_token_counts(tmp_path):
    whole = documents(2500)
    batches = [whole.slice(0, 700), whole.slice(700, 1500), whole.slice(2200)]
    counts = np.split(np.arange(2500), [700, 2200])
    table = pq.read_table(write(tmp_path / "shard.parquet", batches, counts), page_checksum_verification=True)
    assert table.drop_columns(["n_tokens"]).to_pylist() == whole.to_pylist()
    assert table["n_tokens"].to_pylist() == list(range(2500))


def test_shards_are_zstd_row_groups_of_1024_documents_with_a_page_index(tmp_path):
    path = write(tmp_path / "shard.parquet", [documents(2000)], [[1] * 2000])
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [1024, 976]
    columns = [metadata.row_group(0).column(number) for number in range(metadata.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert all(column.has_offset_index for column in columns)
    assert [column.path_in_schema for column in columns if not column.has_column_index] == ["text"]
    assert [column.path_in_schema for column in columns if column.has_dictionary_page] == [
        "source",
        "lang",
        "domain",
        "license",
        "meta",
    ]


def test_very_long_documents_make_row_groups_of_fewer(tmp_path):
    long = documents(1, "긴 글" * 3_000_000)
    path = write(tmp_path / "shard.parquet", [long] * 7, [[1]] * 7)
    metadata = pq.read_metadata(path)
    large_enough = -(-document_shards.LARGEST_ROW_GROUP_BYTES // long.nbytes)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [
        large_enough,
        7 - large_enough,
    ]


def test_the_footer_counts_what_is_inside(tmp_path):
    batch = documents(3, "값 값")
    paths = [write(tmp_path / f"{number}.parquet", [batch], [[1, 0, 5]]) for number in range(2)]
    assert pq.read_metadata(paths[0]).metadata[b"yunmin.tokenizer_hash"] == b"17c0"
    counts = count_documents(paths)
    jsonl = b"".join(orjson.dumps(row) + b"\n" for row in batch.to_pylist())
    assert (counts.documents, counts.tokens) == (6, 12)
    assert counts.text_bytes == 6 * len("값 값".encode())
    assert counts.jsonl_bytes == 2 * len(jsonl)


def test_documents_are_counted_by_powers_of_two(tmp_path):
    lengths = [0, 0, 1, 2, 3, 4, 7, 8, 1000]
    path = write(tmp_path / "shard.parquet", [documents(len(lengths))], [lengths])
    assert token_count_histogram([path, path]) == {0: 4, 1: 2, 2: 4, 4: 4, 8: 2, 512: 2}


def test_no_documents_give_an_empty_shard(tmp_path):
    path = write(tmp_path / "shard.parquet", [], [])
    assert pq.read_table(path).num_rows == 0
    assert count_documents([path]).documents == 0


def test_a_shard_that_failed_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="2 token counts for 3 documents"):
        write(tmp_path / "shard.parquet", [documents(3)], [[1, 2]])
    with pytest.raises(ValueError, match="license"):
        write(tmp_path / "shard.parquet", [documents(3).drop_columns(["license"])], [[1, 2, 3]])
    assert list(tmp_path.iterdir()) == []

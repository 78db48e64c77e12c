import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from yunmin_assets.columnar import write_document_shards
from yunmin_assets.columnar.document_shards import DOCUMENTS_PER_SHARD
from yunmin_assets.documents import DOCUMENT_SCHEMA


def documents(count):
    columns = {name: ["값"] * count for name in DOCUMENT_SCHEMA.names}
    columns["id"] = [str(number) for number in range(count)]
    return pa.table(columns, schema=DOCUMENT_SCHEMA)


def test_documents_come_back_with_their_token_counts(tmp_path):
    (path,) = write_document_shards(documents(2000), range(2000), tmp_path / "documents")
    table = pq.read_table(path)
    assert table.column_names == [*DOCUMENT_SCHEMA.names, "n_tokens"]
    assert table["n_tokens"].to_pylist() == list(range(2000))
    assert table.select(DOCUMENT_SCHEMA.names).equals(documents(2000))


def test_shards_are_zstd_row_groups_of_1024_documents_with_a_page_index(tmp_path):
    (path,) = write_document_shards(documents(2000), [1] * 2000, tmp_path / "documents")
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [1024, 976]
    column = metadata.row_group(0).column(1)
    assert (column.path_in_schema, column.compression) == ("text", "ZSTD")
    assert column.has_offset_index and column.has_column_index


def test_many_documents_fill_several_shards_in_order(tmp_path):
    count = DOCUMENTS_PER_SHARD + 1
    paths = write_document_shards(documents(count), [0] * count, tmp_path / "documents")
    assert [path.name for path in paths] == ["shard-00000.parquet", "shard-00001.parquet"]
    ids = pa.concat_tables([pq.read_table(path, columns=["id"]) for path in paths])["id"]
    assert ids.equals(documents(count)["id"])


def test_no_documents_give_one_empty_shard(tmp_path):
    (path,) = write_document_shards(documents(0), [], tmp_path / "documents")
    assert pq.read_metadata(path).num_rows == 0


def test_counts_that_do_not_match_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 token counts for 3 documents"):
        write_document_shards(documents(3), [1, 2], tmp_path / "documents")


def test_a_missing_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="license"):
        write_document_shards(documents(3).drop_columns(["license"]), [1, 2, 3], tmp_path / "documents")

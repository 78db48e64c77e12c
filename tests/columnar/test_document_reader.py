import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from yunmin_assets.columnar import read_document_batches
from yunmin_assets.columnar.page_reader import DamagedFileError
from yunmin_assets.documents import DOCUMENT_SCHEMA, write_documents

COUNT = 2500


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two shards of documents, 3 and 2 row groups; texts are much longer than everything else."""
    folder = tmp_path_factory.mktemp("documents")
    random = np.random.default_rng(0)
    for shard in range(2):
        rows = range(shard * COUNT, shard * COUNT + COUNT - 500 * shard)
        columns = {name: [f"{name} {row}" for row in rows] for name in DOCUMENT_SCHEMA.names}
        columns["meta"] = [random.bytes(200).hex() for _ in rows]
        columns["text"] = [random.bytes(300).hex() for _ in rows]
        write_documents(pa.table(columns, schema=DOCUMENT_SCHEMA), folder / f"shard-0000{shard}.parquet")
    return folder


@pytest.fixture(scope="module")
def table(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def test_all_columns_of_all_documents_come_in_order(folder, table):
    batches = list(read_document_batches(folder))
    assert pa.Table.from_batches(batches).equals(table.combine_chunks())
    assert [batch.num_rows for batch in batches] == [1024, 1024, 452, 1024, 976]


def test_columns_come_in_the_order_asked_for(folder, table):
    found = pa.Table.from_batches(read_document_batches(folder, ["text", "id"]))
    assert found.equals(table.select(["text", "id"]).combine_chunks())


@pytest.mark.parametrize(
    "rows", [range(0), range(10), range(1023, 1026), range(2400, 3600), range(4499, 9999)]
)
def test_a_range_of_documents(folder, table, rows):
    batches = list(read_document_batches(folder, ["id"], rows))
    found = [value for batch in batches for value in batch["id"].to_pylist()]
    assert found == table["id"].to_pylist()[rows.start : rows.stop]


class CountingFile(io.FileIO):
    """Counts the bytes that are read."""

    bytes_read = 0

    def read(self, size=-1):
        data = super().read(size)
        CountingFile.bytes_read += len(data)
        return data

    def readinto(self, target):
        size = super().readinto(target)
        CountingFile.bytes_read += size
        return size


def test_only_the_text_column_of_the_wanted_row_groups_is_read(folder, monkeypatch):
    monkeypatch.setattr(Path, "open", lambda path, *_: CountingFile(path))
    metadata = [pq.read_metadata(path) for path in sorted(folder.glob("*.parquet"))]
    groups = [file.row_group(group) for file in metadata for group in range(file.num_row_groups)]
    text_bytes = [group.column(1).total_compressed_size for group in groups]
    footers = sum(file.serialized_size for file in metadata)
    for rows, expected in ((None, sum(text_bytes)), (range(1100, 1200), text_bytes[1])):
        CountingFile.bytes_read = 0
        assert list(read_document_batches(folder, ["text"], rows))
        assert CountingFile.bytes_read <= 1.05 * expected + footers + 150_000  # pyarrow reads 64 KB ends


def test_one_file_may_be_named(folder, table):
    (batch, *_) = read_document_batches(folder / "shard-00000.parquet", ["id"])
    assert batch["id"].to_pylist() == table["id"].to_pylist()[:1024]


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no shard-\*\.parquet"):
        list(read_document_batches(tmp_path))
    with pytest.raises(ValueError, match=r"no columns \['body'\]"):
        list(read_document_batches(folder, ["body"]))
    with pytest.raises(ValueError, match="step 1"):
        list(read_document_batches(folder, rows=range(0, 10, 2)))
    with pytest.raises(ValueError, match="no columns: name at least one"):
        list(read_document_batches(folder, []))


@pytest.fixture
def copied_folder(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "documents"))


def test_a_shard_that_is_missing_between_others_is_named(copied_folder):
    shutil.copy(copied_folder / "shard-00001.parquet", copied_folder / "shard-00002.parquet")
    (copied_folder / "shard-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001\.parquet is missing"):
        list(read_document_batches(copied_folder))


def test_shards_behind_the_wanted_rows_are_not_opened(copied_folder):
    (copied_folder / "shard-00001.parquet").write_bytes(b"no Parquet")
    assert sum(batch.num_rows for batch in read_document_batches(copied_folder, ["id"], range(10))) == 10


def test_damage_is_named_with_its_file(copied_folder):
    path = copied_folder / "shard-00001.parquet"
    content = bytearray(path.read_bytes())
    place = pq.read_metadata(path).row_group(0).column(1).data_page_offset + 200
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"shard-00001\.parquet: row group 0 cannot be read"):
        list(read_document_batches(copied_folder, ["text"]))
    path.write_bytes(content[:1000])
    with pytest.raises(DamagedFileError, match=r"shard-00001\.parquet: the footer cannot be read"):
        list(read_document_batches(copied_folder, ["text"]))

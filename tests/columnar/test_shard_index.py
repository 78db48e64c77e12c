"""The index says what pyarrow finds in the shard, in the bytes that safetensors itself would write."""

import json
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save

from yunmin_assets.columnar import PackConfig
from yunmin_assets.columnar.rows import RowLayout
from yunmin_assets.columnar.shard_index import write_shard_index
from yunmin_assets.columnar.shard_writer import ShardWriter


@pytest.fixture
def index_path(packed):
    return packed / "shard-00002.index.safetensors"


def test_an_index_has_the_bytes_that_safetensors_writes(index_path):
    with safe_open(index_path, "numpy") as file:
        metadata = file.metadata()
    assert index_path.read_bytes() == save(load_file(index_path), metadata)


def test_document_starts_and_domains_are_those_of_the_shard(index_path):
    index, table = load_file(index_path), pq.read_table(index_path.with_name("shard-00002.parquet"))
    lists = iter(table["doc_start"].to_pylist())
    expected, ends = [], []
    for rows in index["rows"].tolist():
        expected += [row * 16 + position for row in range(rows) for position in next(lists)]
        ends.append(len(expected))
    assert index["starts"].tolist() == expected
    assert index["starts_end"].tolist() == ends
    with safe_open(index_path, "numpy") as file:
        domains = json.loads(file.metadata()["domains"])
    assert [domains[number] for number in index["domain"]] == table["domain"].to_pylist()


def test_making_an_index_takes_few_bytes_per_document(tmp_path):
    config = PackConfig(seq_len=512, compression="none")
    layout = RowLayout.of(config)
    rows, block = 16 * config.rows_per_row_group, 4096
    records = np.full((block, layout.record_bytes), 0xFF, np.uint8)  # a document starts at every position
    (entry,) = ShardWriter(tmp_path, config).write(records for _ in range(rows // block))
    tracemalloc.start()
    write_shard_index(tmp_path / entry.name, config.seq_len)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    documents = rows * config.seq_len
    assert len(load_file(tmp_path / "shard-00000.index.safetensors")["starts"]) == documents
    assert peak < 6 * documents  # NumPy's share; 48 bytes when the columns were read as a whole

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yunmin_assets.columnar import DamagedFileError, PackConfig, PageReader, pack_documents
from yunmin_assets.columnar.thrift_compact import CompactReader

SEQ_LEN, VOCAB = 31, 900


def one_shard(folder, compression="zstd", vocab_size=VOCAB, rows=300, **options):
    tokens = np.random.default_rng(3).integers(1, VOCAB, rows * SEQ_LEN)
    config = PackConfig(
        **{
            **{"seq_len": SEQ_LEN, "vocab_size": vocab_size, "compression": compression},
            **{"page_bytes": 640, "rows_per_row_group": 128},
            **options,
        }
    )
    pack_documents([tokens], folder, config)
    return folder / "shard-00000.parquet"


def rows_by_pyarrow(path):
    return np.array([np.frombuffer(row, np.uint8) for row in pq.read_table(path)["tokens"].to_pylist()])


def rows_by_page(path):
    with PageReader(path) as reader:
        return np.concatenate([reader.read_page(page) for page in range(len(reader.index.rows))])


@pytest.fixture(scope="module", params=["zstd", "none"])
def shard(request, tmp_path_factory):
    return one_shard(tmp_path_factory.mktemp("shard") / "data", request.param)


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("vocab_size", [VOCAB, 100_000])
@pytest.mark.parametrize(
    "options", [{}, {"rows_per_row_group": 7}, {"page_bytes": 128}, {"page_bytes": 10**6}]
)
def test_pages_hold_the_rows_that_pyarrow_reads(tmp_path, compression, vocab_size, options):
    path = one_shard(tmp_path / "data", compression, vocab_size, **options)
    assert np.array_equal(rows_by_page(path), rows_by_pyarrow(path))


def test_pages_have_the_size_that_was_asked_for(tmp_path):
    path = one_shard(tmp_path / "data", "none", page_bytes=640)  # rows of 64 bytes
    with PageReader(path) as reader:
        assert reader.rows == 300
        assert reader.index.rows.tolist() == [10] * 12 + [8] + [10] * 12 + [8] + [10] * 4 + [4]


def test_a_page_of_full_length_rows_is_about_64_kilobytes(tmp_path):
    documents = [np.arange(2048 * 200) % 50_000]
    pack_documents(documents, tmp_path / "data", PackConfig(compression="none"))
    with PageReader(tmp_path / "data" / "shard-00000.parquet") as reader:
        assert set(reader.index.rows[:-1].tolist()) == {16}
        assert (abs(reader.index.sizes[:-1] - 64 * 1024) < 1024).all()


def test_reading_a_page_reads_only_that_page(shard):
    with PageReader(shard) as reader:
        page = 5
        first = int(reader.index.rows[:page].sum())
        expected = rows_by_pyarrow(shard)[first : first + reader.index.rows[page]]
        assert np.array_equal(reader.read_page(page), expected)


def test_a_flipped_byte_in_a_page_is_found_and_named(shard, tmp_path):
    data = shard.read_bytes()
    with PageReader(shard) as reader:
        start, size = int(reader.index.offsets[7]), int(reader.index.sizes[7])
    header = CompactReader(data, start)
    header.read_struct()
    copy = tmp_path / "flipped.parquet"
    for offset in range(header.position, start + size):
        copy.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
        with PageReader(copy) as reader:
            reader.read_page(6)
            reader.read_page(8)
            with pytest.raises(DamagedFileError, match=rf"flipped\.parquet: .*page 7.* at byte {start}\."):
                reader.read_page(7)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_byte_anywhere_never_gives_other_rows(shard, tmp_path_factory, data):
    good = shard.read_bytes()
    offset = data.draw(st.integers(0, len(good) - 1) | st.integers(len(good) - 3000, len(good) - 1))
    flipped = bytearray(good)
    flipped[offset] ^= data.draw(st.integers(1, 255))
    copy = tmp_path_factory.mktemp("flip") / "copy.parquet"
    copy.write_bytes(flipped)
    try:
        rows = rows_by_page(copy)
    except DamagedFileError as error:
        assert str(copy) in str(error)
    else:
        assert np.array_equal(rows, rows_by_pyarrow(shard))


def test_a_truncated_file_is_refused(shard, tmp_path):
    data = shard.read_bytes()
    copy = tmp_path / "short.parquet"
    for length in [0, 1, 11, 100, len(data) // 2, len(data) - 1]:
        copy.write_bytes(data[:length])
        with pytest.raises(DamagedFileError, match=r"short\.parquet: .*at byte \d+"):
            PageReader(copy)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.parquet"):
        PageReader(tmp_path / "absent.parquet")


READABLE = {
    "use_dictionary": False,
    "compression": "zstd",
    "write_page_index": True,
    "write_page_checksum": True,
}
FIXED = pa.schema([pa.field("tokens", pa.binary(4), nullable=False)])


def test_a_file_that_another_program_wrote_in_this_layout_is_read(tmp_path):
    table = pa.table([[b"abcd", b"efgh"]], schema=FIXED)
    pq.write_table(table, tmp_path / "other.parquet", **READABLE)
    assert rows_by_page(tmp_path / "other.parquet").tobytes() == b"abcdefgh"


@pytest.mark.parametrize(
    ("schema", "options", "message"),
    [
        (FIXED, {"compression": "snappy"}, "compression codecs"),
        (FIXED, {"write_page_checksum": False}, "header of page 0"),
        (FIXED, {"data_page_version": "2.0"}, "header of page 0"),
        (FIXED, {"write_page_index": False}, "page index"),
        (FIXED, {"use_dictionary": True}, "page index"),
        (pa.schema([pa.field("tokens", pa.binary(4))]), {}, "no column 'tokens' of type REQUIRED"),
        (
            pa.schema([pa.field("tokens", pa.binary(), nullable=False)]),
            {},
            "no column 'tokens' of type REQUIRED",
        ),
        (pa.schema([pa.field("words", pa.binary(4), nullable=False)]), {}, "no column 'tokens'"),
    ],
)
def test_another_layout_is_refused_by_name(tmp_path, schema, options, message):
    table = pa.table([[b"abcd", b"abcd"]], schema=schema)
    pq.write_table(table, tmp_path / "other.parquet", **{**READABLE, **options})
    with pytest.raises(DamagedFileError, match=message):
        rows_by_page(tmp_path / "other.parquet")

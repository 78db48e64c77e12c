"""What is written is read back, and what does not fit is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from yunmin_assets.dedup import DedupConfig, compute_signatures, read_band, read_signatures, write_signatures

CONFIG = DedupConfig(ngram=3, bands=4, rows=3)
DOCUMENTS = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "text": pa.chunked_array([["가나다라마바사", "가나다라마바사!"], ["", "다른 글"]], pa.large_string()),
        "source": ["x"] * 4,
    }
)


def test_signatures_come_back_as_they_were_computed(tmp_path: Path) -> None:
    assert write_signatures(DOCUMENTS, tmp_path, CONFIG) == 4
    expected, found = compute_signatures(DOCUMENTS["text"], CONFIG), read_signatures(tmp_path, CONFIG)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values)
        assert getattr(found, name).dtype == values.dtype


def test_bands_are_sorted_by_key_and_name_the_rows_of_the_documents(tmp_path: Path) -> None:
    write_signatures(DOCUMENTS, tmp_path, CONFIG)
    keys = compute_signatures(DOCUMENTS["text"], CONFIG).band_keys
    for band in range(4):
        table = read_band(tmp_path, band, CONFIG)
        assert table.schema.types == [pa.uint64(), pa.uint32()]
        rows = table["document"].to_numpy()
        assert sorted(rows.tolist()) == [0, 1, 2, 3]
        np.testing.assert_array_equal(keys[band][rows], table["key"].to_numpy())
        assert (np.diff(table["key"].to_numpy().astype(object)) >= 0).all()


def test_the_file_of_documents_can_be_read_without_this_package(tmp_path: Path) -> None:
    write_signatures(DOCUMENTS, tmp_path, CONFIG)
    table = pq.read_table(tmp_path / "documents.parquet")
    assert table.column_names == ["id", "characters", "n_shingles", "text_hash", "signature"]
    assert table.schema.field("text_hash").type == pa.binary(16)
    assert table.schema.field("signature").type.list_size == CONFIG.num_perm
    assert table["id"].to_pylist() == ["a", "b", "c", "d"]
    assert table["characters"].to_pylist() == [7, 8, 0, 4]
    hashes = table["text_hash"].to_pylist()
    assert hashes[0] == hashes[1] and hashes[2] == b"\0" * 16 and len(set(hashes)) == 3


def test_the_same_documents_give_the_same_bytes_and_no_leftovers(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_signatures(DOCUMENTS, tmp_path / name, CONFIG)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == [
        "band-00.parquet",
        "band-01.parquet",
        "band-02.parquet",
        "band-03.parquet",
        "documents.parquet",
    ]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_no_documents_are_written_and_read(tmp_path: Path) -> None:
    assert write_signatures(DOCUMENTS.slice(0, 0), tmp_path, CONFIG) == 0
    assert len(read_signatures(tmp_path, CONFIG)) == 0


def test_signatures_made_with_other_options_are_refused(tmp_path: Path) -> None:
    write_signatures(DOCUMENTS, tmp_path, CONFIG)
    read_signatures(tmp_path, CONFIG.model_copy(update={"threshold": 0.7, "survivors": "linked"}))
    for update in ({"seed": 2}, {"ngram": 4}, {"bands": 3, "rows": 4}, {"punctuation": "unicode"}):
        with pytest.raises(
            ValueError, match=r"documents\.parquet was made with .*compute the signatures again"
        ):
            read_signatures(tmp_path, CONFIG.model_copy(update=update))


def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    write_signatures(DOCUMENTS, tmp_path, CONFIG)
    path = tmp_path / "documents.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"documents\.parquet is no file of signatures"):
        read_signatures(tmp_path, CONFIG)
    pq.write_table(DOCUMENTS, path)
    with pytest.raises(ValueError, match=r"documents\.parquet is no file of signatures"):
        read_signatures(tmp_path, CONFIG)
    with pytest.raises(FileNotFoundError):
        read_band(tmp_path, 9, CONFIG)


def test_repeated_ids_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    doubled = pa.concat_tables([DOCUMENTS, DOCUMENTS.slice(1, 1)])
    with pytest.raises(ValueError, match="1 ids occur more than once, such as 'b'"):
        write_signatures(doubled, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()

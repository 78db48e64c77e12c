"""What is written is read back, and what does not fit is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from yunmin_assets.dedup import DedupConfig, compute_signatures, read_band, read_signatures, write_signatures
from yunmin_assets.documents import DOCUMENT_SCHEMA, write_documents

CONFIG = DedupConfig(ngram=3, bands=4, rows=3)
TEXTS = {"a": "가나다라마바사", "b": "가나다라마바사!", "c": "", "d": "다른 글"}
DOCUMENTS = pa.Table.from_pylist(
    [{"id": name, "text": text, "domain": "law"} for name, text in TEXTS.items()], DOCUMENT_SCHEMA
)


def sign(
    documents: pa.Table,
    folder: Path,
    config: DedupConfig = CONFIG,
    *,
    workspace: Path | None = None,
    documents_per_file: int = 2,
) -> int:
    """Sign a table from several files of documents."""
    sources = []
    for number, first in enumerate(range(0, max(documents.num_rows, 1), documents_per_file)):
        sources.append(folder.parent / f"{folder.name}-clean" / f"documents-{number:05d}.parquet")
        write_documents(documents.slice(first, documents_per_file), sources[-1])
    workspace = workspace or folder.parent / f"{folder.name}-workspace"
    return write_signatures(sources, folder, config, workspace=workspace)


def test_signatures_come_back_as_they_were_computed(tmp_path: Path) -> None:
    assert sign(DOCUMENTS, tmp_path / "out") == 4
    expected, found = compute_signatures(DOCUMENTS["text"], CONFIG), read_signatures(tmp_path / "out", CONFIG)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values)
        assert getattr(found, name).dtype == values.dtype


def test_bands_are_sorted_by_key_and_name_the_rows_of_the_documents(tmp_path: Path) -> None:
    sign(DOCUMENTS, tmp_path / "out")
    keys = compute_signatures(DOCUMENTS["text"], CONFIG).band_keys
    for band in range(4):
        table = read_band(tmp_path / "out", band, CONFIG)
        assert table.schema.types == [pa.uint64(), pa.uint32()]
        rows = table["document"].to_numpy()
        assert sorted(rows.tolist()) == [0, 1, 2, 3]
        np.testing.assert_array_equal(keys[band][rows], table["key"].to_numpy())
        assert (np.diff(table["key"].to_numpy().astype(object)) >= 0).all()


def test_files_of_documents_can_be_read_without_this_package(tmp_path: Path) -> None:
    sign(DOCUMENTS, tmp_path / "out")
    parts = [pq.read_table(tmp_path / "out" / f"documents-0000{number}.parquet") for number in (0, 1)]
    assert [part.num_rows for part in parts] == [2, 2]
    table = pa.concat_tables(parts)
    names = ["id", "id_hash", "bytes", "quality", "characters", "n_shingles", "text_hash", "signature"]
    assert table.column_names == names
    assert table["bytes"].to_pylist() == [len(text.encode()) for text in TEXTS.values()]
    assert table.schema.field("text_hash").type == pa.binary(16)
    assert table.schema.field("signature").type.list_size == CONFIG.num_perm
    assert table["id"].to_pylist() == ["a", "b", "c", "d"]
    assert table["characters"].to_pylist() == [7, 8, 0, 4]
    hashes = table["text_hash"].to_pylist()
    assert hashes[0] == hashes[1] and hashes[2] == b"\0" * 16 and len(set(hashes)) == 3


def test_the_same_documents_give_the_same_bytes_and_no_leftovers(tmp_path: Path) -> None:
    for name in ("first", "second"):
        sign(DOCUMENTS, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == [
        "band-00.parquet",
        "band-01.parquet",
        "band-02.parquet",
        "band-03.parquet",
        "documents-00000.parquet",
        "documents-00001.parquet",
        "text-hashes.parquet",
    ]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_no_documents_are_written_and_read(tmp_path: Path) -> None:
    assert sign(DOCUMENTS.slice(0, 0), tmp_path / "out") == 0
    assert len(read_signatures(tmp_path / "out", CONFIG)) == 0


def test_signatures_made_with_other_options_are_refused(tmp_path: Path) -> None:
    sign(DOCUMENTS, tmp_path / "out")
    read_signatures(tmp_path / "out", CONFIG.model_copy(update={"threshold": 0.7, "survivors": "linked"}))
    for update in ({"seed": 2}, {"ngram": 4}, {"bands": 3, "rows": 4}, {"punctuation": "unicode"}):
        with pytest.raises(
            ValueError, match=r"documents-00000\.parquet was made with .*compute the signatures again"
        ):
            read_signatures(tmp_path / "out", CONFIG.model_copy(update=update))


def test_text_hashes_are_sorted_and_equal_for_exact_duplicates(tmp_path: Path) -> None:
    sign(DOCUMENTS, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "text-hashes.parquet")
    hashes = {
        document: (key, low)
        for key, document, low in zip(*(column.to_pylist() for column in table), strict=True)
    }
    assert table.column_names == ["key", "document", "low"]
    assert hashes[0] == hashes[1]
    assert len(set(hashes.values())) == 3


def test_small_key_ranges_give_the_same_order(tmp_path: Path) -> None:
    documents = pa.Table.from_pylist(
        [{"id": str(number), "text": f"글 {number % 7000}", "domain": "law"} for number in range(60_000)],
        DOCUMENT_SCHEMA,
    )
    for name, budget in (("roomy", 2048), ("tight", 1)):
        sign(
            documents,
            tmp_path / name,
            DedupConfig(bands=2, rows=1, memory_budget_mb=budget),
            documents_per_file=25_000,
        )
    for band in (0, 1):
        roomy, tight = (read_band(tmp_path / name, band) for name in ("roomy", "tight"))
        assert tight.equals(roomy)


@pytest.mark.parametrize(
    ("meta", "quality"),
    [
        (None, None),
        ('{"score": 3}', 3.0),
        ('{"score": 0.5, "x": "y"}', 0.5),
        ('{"x": 1}', None),
        ("[1]", None),
    ],
)
def test_quality_comes_from_a_number_in_meta(tmp_path: Path, meta: str | None, quality: float | None) -> None:
    row = {"id": "a", "text": "글", "domain": "law", "meta": meta}
    documents = pa.Table.from_pylist([row], DOCUMENT_SCHEMA)
    sign(documents, tmp_path / "out", DedupConfig(quality="score"))
    assert pq.read_table(tmp_path / "out" / "documents-00000.parquet")["quality"].to_pylist() == [quality]


@pytest.mark.parametrize("value", ['"good"', "true", "[1]"])
def test_a_quality_that_is_no_number_is_refused_by_name(tmp_path: Path, value: str) -> None:
    row = {"id": "a-7", "text": "글", "domain": "law", "meta": f'{{"score": {value}}}'}
    with pytest.raises(
        ValueError, match=r"documents-00000\.parquet: meta\.score of document 'a-7' is .* a number"
    ):
        sign(pa.Table.from_pylist([row], DOCUMENT_SCHEMA), tmp_path / "out", DedupConfig(quality="score"))


def test_signed_files_are_not_signed_again(tmp_path: Path) -> None:
    """A killed attempt leaves its finished files in the workspace."""
    workspace = tmp_path / "workspace"
    sign(DOCUMENTS, tmp_path / "whole", workspace=workspace)
    (workspace / "documents-00001.parquet").unlink()  # as if killed before the second file was complete
    kept = (workspace / "documents-00000.parquet").stat().st_mtime_ns
    sign(DOCUMENTS, tmp_path / "resumed", workspace=workspace)
    assert (workspace / "documents-00000.parquet").stat().st_mtime_ns == kept
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "resumed" / file.name).read_bytes()


def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    sign(DOCUMENTS, tmp_path / "out")
    path = tmp_path / "out" / "documents-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"documents-00000\.parquet is no file of signatures"):
        read_signatures(tmp_path / "out", CONFIG)
    pq.write_table(DOCUMENTS, path)
    with pytest.raises(ValueError, match=r"documents-00000\.parquet is no file of signatures"):
        read_signatures(tmp_path / "out", CONFIG)
    with pytest.raises(FileNotFoundError):
        read_band(tmp_path / "out", 9, CONFIG)
    with pytest.raises(FileNotFoundError, match="holds no signatures"):
        read_signatures(tmp_path / "nowhere", CONFIG)


@pytest.mark.parametrize("name", ["documents-00000.parquet", "band-01.parquet"])
def test_a_flipped_byte_is_found_and_the_file_is_named(tmp_path: Path, name: str) -> None:
    sign(DOCUMENTS, tmp_path / "out")
    path = tmp_path / "out" / name
    column = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*compute the signatures again"):
        read_signatures(tmp_path / "out", CONFIG) if name.startswith("documents") else read_band(
            tmp_path / "out", 1
        )


def test_repeated_ids_are_refused_with_the_files_they_are_in(tmp_path: Path) -> None:
    doubled = pa.concat_tables([DOCUMENTS, DOCUMENTS.slice(1, 1)])
    message = r"1 ids occur more than once, such as 'b' in documents-00000\.parquet, documents-00002\.parquet"
    with pytest.raises(ValueError, match=message):
        sign(doubled, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())

"""A remote prefix holds one whole data set or no manifest, whatever happened there before or happens meanwhile."""

import itertools

import pytest
from upath import UPath

from yunmin_assets.columnar import PackConfig, pack_documents
from yunmin_assets.columnar.upload import UNFINISHED_MARK

CONFIG = PackConfig(seq_len=16, vocab_size=500, page_bytes=150, rows_per_row_group=32, shard_bytes=2000)
numbers = itertools.count()


@pytest.fixture
def out():
    """A prefix of its own in fsspec's memory."""
    return UPath(f"memory://lake-{next(numbers)}/packed")


def names(out):
    return sorted(path.name for path in out.iterdir())


def local_names(folder, documents):
    pack_documents(documents, folder, CONFIG)
    return sorted(path.name for path in folder.iterdir())


def killed_upload(monkeypatch, out, documents, after_files):
    """Pack, and die while a file is uploaded."""
    put_file, uploaded = type(out.fs).put_file, []

    def put_some(self, source, target, **options):
        if len(uploaded) == after_files:
            raise KeyboardInterrupt
        uploaded.append(target)
        return put_file(self, source, target, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(out.fs), "put_file", put_some)
        pack_documents(documents, out, CONFIG)
    assert len(uploaded) == after_files


def test_nothing_of_a_killed_upload_stays_beside_the_data_set_that_is_packed_next(
    monkeypatch, out, make_documents, tmp_path
):
    killed_upload(monkeypatch, out, make_documents(200), after_files=6)
    assert UNFINISHED_MARK in names(out) and "shard-00002.parquet" in names(out)
    pack_documents(make_documents(10), out, CONFIG)
    assert names(out) == local_names(tmp_path / "local", make_documents(10))
    assert "shard-00001.parquet" not in names(out)


def test_a_whole_data_set_is_never_overwritten_though_its_mark_could_not_be_removed(
    monkeypatch, out, make_documents, tmp_path
):
    def deny(_self, path):
        raise PermissionError(path)

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(type(out.fs), "rm_file", deny)
        pack_documents(make_documents(50), out, CONFIG)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {"manifest.json", UNFINISHED_MARK} <= before.keys()
    with pytest.raises(
        FileExistsError, match="only its mark 'unfinished' was not removed: remove that object"
    ):
        pack_documents(make_documents(90), out, CONFIG)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_of_two_packings_at_once_the_earlier_one_stops_and_the_later_one_is_whole(
    out, make_documents, tmp_path
):
    def documents_while_another_packs():
        yield from make_documents(150)
        pack_documents(make_documents(60), out, CONFIG)

    with pytest.raises(RuntimeError, match=r"another packing has taken over memory://.*packed"):
        pack_documents(documents_while_another_packs(), out, CONFIG)
    pack_documents(make_documents(60), tmp_path / "local", CONFIG)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()
    }


def test_a_packing_that_lost_its_claim_between_two_shards_uploads_no_more(monkeypatch, out, make_documents):
    put_file, uploaded = type(out.fs).put_file, []

    def put_and_lose(self, source, target, **options):
        uploaded.append(target)
        put_file(self, source, target, **options)
        if len(uploaded) == 3:
            self.pipe_file((out / UNFINISHED_MARK).path, b"another")

    monkeypatch.setattr(type(out.fs), "put_file", put_and_lose)
    with pytest.raises(RuntimeError, match="another packing has taken over"):
        pack_documents(make_documents(150), out, CONFIG)
    assert len(uploaded) == 3
    assert (out / UNFINISHED_MARK).read_bytes() == b"another"


def test_something_else_under_the_prefix_is_left_alone(out, make_documents):
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="already holds something: choose a new prefix"):
        pack_documents(make_documents(5), out, CONFIG)
    assert names(out) == ["notes.txt"]

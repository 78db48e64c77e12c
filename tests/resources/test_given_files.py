"""A base model, a tokenizer or benchmarks that lie on S3 are fetched once, whole and unchanged."""

import signal
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest
from upath import UPath

from resources.lake import Lake, open_uri
from resources.snapshot import LakeError
from tests.conftest import REPOSITORY
from tests.s3_proxy import Proxy


@pytest.fixture
def lake(proxy: Proxy, tmp_path: Path) -> Lake:
    return Lake(uri="s3://lake/unused", endpoint_url=proxy.url, cache=str(tmp_path / "cache"))


@pytest.fixture
def model(s3_endpoint: str) -> UPath:
    """A folder with two files, one of them below another folder."""
    folder = open_uri(f"s3://lake/{uuid.uuid4().hex}/model", s3_endpoint)
    (folder / "config.json").write_text("{}")
    (folder / "weights" / "a.safetensors").write_bytes(b"a" * 1000)
    (folder.parent / "model-of-another-name").write_text("x")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_folder_is_fetched_once_with_its_name(lake: Lake, model: UPath, proxy: Proxy) -> None:
    first = lake.fetch(str(model))
    assert first.name == "model"
    assert content(first) == {"config.json": b"{}", "weights/a.safetensors": b"a" * 1000}
    proxy.requests.clear()
    assert lake.fetch(str(model)) == first
    assert not [path for method, path, _ in proxy.requests if path.endswith(("json", "safetensors"))]


def test_a_single_file_keeps_its_name(lake: Lake, model: UPath) -> None:
    fetched = lake.fetch(str(model / "config.json"))
    assert (fetched.name, fetched.read_text()) == ("config.json", "{}")


def test_what_was_overwritten_is_fetched_anew(lake: Lake, model: UPath) -> None:
    before = lake.fetch(str(model))
    (model / "config.json").write_text("[]")
    assert content(lake.fetch(str(model)))["config.json"] == b"[]"
    assert content(before)["config.json"] == b"{}"


def test_a_local_path_is_taken_as_it_is(lake: Lake, tmp_path: Path) -> None:
    assert lake.fetch(tmp_path) == tmp_path
    with pytest.raises(LakeError, match=r"there is nothing at .*nowhere: correct the path"):
        lake.fetch(tmp_path / "nowhere")


def test_nothing_at_a_uri_is_named_with_the_cure(lake: Lake, model: UPath) -> None:
    with pytest.raises(
        LakeError, match=r"there is nothing at s3://lake/.*/mode: upload it there, or correct"
    ):
        lake.fetch(str(model)[:-1])


def test_a_folder_that_is_replaced_while_it_is_fetched_is_not_used(
    lake: Lake, model: UPath, proxy: Proxy
) -> None:
    def replace(name: str, before: int) -> None:
        if name == "a.safetensors" and before == 0:
            (model / "config.json").write_text("[]")

    proxy.breaks = replace
    with pytest.raises(LakeError, match="was changed while it was fetched: run it again") as raised:
        lake.fetch(str(model))
    assert raised.value.allow_retries
    assert content(lake.fetch(str(model)))["config.json"] == b"[]"


FETCH_AND_DIE = textwrap.dedent(
    """
    import os, signal, sys
    import s3fs
    from resources.lake import Lake

    uri, endpoint, cache, given, whole_files = sys.argv[1:]
    original, count = s3fs.S3FileSystem._get_file, 0

    async def die_after_some(self, *arguments, **options):
        global count
        await original(self, *arguments, **options)
        count += 1
        if count > int(whole_files):
            os.kill(os.getpid(), signal.SIGKILL)

    s3fs.S3FileSystem._get_file = die_after_some
    lake = Lake(uri=uri, endpoint_url=endpoint, cache=cache)
    lake.fetch(given) if given else lake.current("clean_corpus").local
    """
)


@pytest.mark.parametrize("whole_files", [0, 1])
def test_a_process_killed_while_it_fetches_leaves_nothing_that_another_takes_for_whole(
    s3_endpoint: str, model: UPath, tmp_path: Path, whole_files: int
) -> None:
    uri, cache = f"s3://lake/{uuid.uuid4().hex}", str(tmp_path / "cache")
    lake = Lake(uri=uri, endpoint_url=s3_endpoint, cache=cache)
    with lake.stage("clean_corpus") as staging:
        (staging.folder / "a").write_text("a")
        (staging.folder / "b").write_text("b")
        published = lake.commit(staging, asset="clean_corpus", domain=None, fingerprint="")
    for given in ("", str(model)):
        command = [sys.executable, "-c", FETCH_AND_DIE, uri, s3_endpoint, cache, given, str(whole_files)]
        process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert process.returncode == -signal.SIGKILL, process.stderr
    assert content(published.local) == {"a": b"a", "b": b"b"}
    assert len(content(lake.fetch(str(model)))) == 2

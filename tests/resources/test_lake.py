"""The lake publishes whole snapshots or none, on a local disk and on S3."""

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resources import pointer
from resources.lake import Lake, check_domain
from resources.pointer import POINTER
from resources.snapshot import LakeError, PointerMovedError, Snapshot
from tests.conftest import REPOSITORY


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "local":
        return Lake(uri=str(tmp_path / "lake"), cache=str(tmp_path / "cache"))
    endpoint = request.getfixturevalue("s3_endpoint")
    uri = f"s3://lake/{uuid.uuid4().hex}"
    return Lake(uri=uri, endpoint_url=endpoint, cache=str(tmp_path / "cache"))


@pytest.fixture
def local_lake(tmp_path: Path) -> Lake:
    return Lake(uri=str(tmp_path / "lake"))


def publish(lake: Lake, text: str, *, domain: str | None = "law") -> Snapshot:
    with lake.stage("clean_corpus", domain) as staging:
        (staging.folder / "part").mkdir()
        (staging.folder / "part" / "a.txt").write_text(text, encoding="utf-8")
        pq.write_table(pa.table({"id": ["1", "2"]}), staging.folder / "b.parquet")
        return lake.commit(staging, asset="clean_corpus", domain=domain, fingerprint=text)


def test_a_published_snapshot_is_read_back_whole(lake: Lake) -> None:
    published = publish(lake, "대한민국")
    found = lake.current("clean_corpus", "law")
    assert found.manifest == published.manifest
    assert (found.local / "part" / "a.txt").read_text(encoding="utf-8") == "대한민국"
    assert found.file("b.parquet").rows == 2
    assert found.file("b.parquet").columns == {"id": "string"}
    assert found.verify() == []


def test_the_pointer_moves_to_the_newest_snapshot_and_the_old_one_stays_readable(lake: Lake) -> None:
    old = publish(lake, "old")
    publish(lake, "new")
    assert (lake.current("clean_corpus", "law").local / "part" / "a.txt").read_text() == "new"
    reopened = lake.open("clean_corpus", "law", old.manifest.version)
    assert (reopened.local / "part" / "a.txt").read_text() == "old"
    assert lake.versions("clean_corpus", "law")[0] == old.manifest.version


def test_equal_content_has_an_equal_hash_and_other_content_another(lake: Lake) -> None:
    assert publish(lake, "same").content_hash == publish(lake, "same").content_hash
    assert publish(lake, "other").content_hash != publish(lake, "same").content_hash


def test_domains_are_those_with_a_current_snapshot(lake: Lake) -> None:
    publish(lake, "x", domain="tech")
    publish(lake, "x", domain="law")
    publish(lake, "x", domain=None)
    with lake.stage("clean_corpus", "news"):
        pass
    assert lake.domains("clean_corpus") == ["law", "tech"]


def test_an_asset_without_a_snapshot_is_named_with_the_cure(lake: Lake) -> None:
    assert lake.find("clean_corpus", "law") is None
    with pytest.raises(LakeError, match=r"clean_corpus\[law\] has no snapshot .* materialize it first"):
        lake.current("clean_corpus", "law")


def test_publishing_nothing_is_refused(lake: Lake) -> None:
    with lake.stage("clean_corpus", "law") as staging, pytest.raises(LakeError, match="wrote no file"):
        lake.commit(staging, asset="clean_corpus", domain="law", fingerprint="")


def test_verify_finds_a_flipped_byte_and_a_missing_file(lake: Lake) -> None:
    snapshot = publish(lake, "대한민국")
    damaged = snapshot.folder / "part" / "a.txt"
    content = bytearray(damaged.read_bytes())
    content[3] ^= 1
    damaged.write_bytes(bytes(content))
    (snapshot.folder / "b.parquet").unlink()
    problems = lake.current("clean_corpus", "law").verify()
    assert len(problems) == 2
    assert "b.parquet: missing" in problems[0]
    assert "a.txt: SHA-256 is" in problems[1]


def test_a_remote_snapshot_that_was_damaged_is_not_used(s3_endpoint: str, tmp_path: Path) -> None:
    lake = Lake(uri=f"s3://lake/{uuid.uuid4().hex}", endpoint_url=s3_endpoint, cache=str(tmp_path / "cache"))
    snapshot = publish(lake, "text")
    (snapshot.folder / "part" / "a.txt").write_bytes(b"tex!")
    with pytest.raises(LakeError, match=r"a\.txt differs from its manifest"):
        _ = lake.current("clean_corpus", "law").local


@pytest.mark.parametrize("name", ["", "..", "a/b", "_global", "법", "a b", "-x", "x" * 101])
def test_a_name_that_is_no_safe_path_cannot_be_a_domain(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a domain"):
        check_domain(name)


PUBLISH_AND_DIE = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from resources.lake import Lake

    root, last_event = Path(sys.argv[1]), int(sys.argv[2])
    lake = Lake(uri=str(root))
    count = 0

    def die_at_the_chosen_step(event, arguments):
        global count
        if event in ("open", "os.mkdir", "os.rename") and str(root) in str(arguments[0]):
            count += 1
            if count > last_event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die_at_the_chosen_step)
    with lake.stage("clean_corpus", "law") as staging:
        for name in ("a", "b"):
            (staging.folder / f"{name}.txt").write_text(f"new {name}")
        lake.commit(staging, asset="clean_corpus", domain="law", fingerprint="new")
    """
)


def test_a_publisher_killed_at_any_step_leaves_the_old_snapshot_or_the_new_one_whole(
    local_lake: Lake,
) -> None:
    old = publish(local_lake, "old")
    old_was_current = []
    for step in range(1000):
        command = [sys.executable, "-c", PUBLISH_AND_DIE, local_lake.uri, str(step)]
        process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        current = local_lake.current("clean_corpus", "law")
        assert current.verify() == []
        old_was_current.append(current.manifest.version == old.manifest.version)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
    assert (current.local / "a.txt").read_text() == "new a"
    assert sum(old_was_current) >= 10, "the publisher was not killed often enough to prove anything"
    assert old_was_current == sorted(old_was_current, reverse=True), "once the pointer moved it stays"


def test_what_a_killed_publisher_left_is_listed_and_collected_and_nothing_else(local_lake: Lake) -> None:
    publish(local_lake, "old")
    for step in (4, 9):
        command = [sys.executable, "-c", PUBLISH_AND_DIE, local_lake.uri, str(step)]
        subprocess.run(command, cwd=REPOSITORY, check=False)
    assert local_lake.garbage() == [], "young folders may still be written to"
    garbage = local_lake.garbage(older_than=-1)
    assert len(garbage) == 2
    assert local_lake.collect(older_than=-1) == garbage
    assert local_lake.garbage(older_than=-1) == []
    assert local_lake.current("clean_corpus", "law").verify() == []


def test_superseded_snapshots_are_collected_only_when_asked_and_never_the_current_one(lake: Lake) -> None:
    versions = [publish(lake, text).manifest.version for text in ("1", "2", "3")]
    assert lake.collect(older_than=-1) == []
    removed = lake.collect(older_than=-1, keep=1)
    assert [path.name for path in removed] == versions[:1]
    assert lake.versions("clean_corpus", "law") == versions[1:]
    assert lake.current("clean_corpus", "law").manifest.version == versions[2]


PUBLISH_TO_S3_AND_DIE = textwrap.dedent(
    """
    import os, signal, sys
    import s3fs
    from resources.lake import Lake

    uri, endpoint, last_call = sys.argv[1], sys.argv[2], int(sys.argv[3])
    count = 0
    original = s3fs.S3FileSystem._call_s3

    async def die_at_the_chosen_call(self, method, *arguments, **options):
        global count
        if method in ("put_object", "create_multipart_upload"):
            count += 1
            if count > last_call:
                os.kill(os.getpid(), signal.SIGKILL)
        return await original(self, method, *arguments, **options)

    s3fs.S3FileSystem._call_s3 = die_at_the_chosen_call
    lake = Lake(uri=uri, endpoint_url=endpoint)
    with lake.stage("clean_corpus", "law") as staging:
        for name in ("a", "b"):
            (staging.folder / f"{name}.txt").write_text(f"new {name}")
        lake.commit(staging, asset="clean_corpus", domain="law", fingerprint="new")
    """
)


def test_a_publisher_to_s3_killed_before_any_upload_leaves_the_old_snapshot_whole(
    s3_endpoint: str, tmp_path: Path
) -> None:
    uri = f"s3://lake/{uuid.uuid4().hex}"
    lake = Lake(uri=uri, endpoint_url=s3_endpoint, cache=str(tmp_path / "cache"))
    old = publish(lake, "old")
    for call in range(10):
        command = [sys.executable, "-c", PUBLISH_TO_S3_AND_DIE, uri, s3_endpoint, str(call)]
        process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        current = lake.current("clean_corpus", "law")
        assert current.verify() == []
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert current.manifest.version == old.manifest.version
    assert call == 4, "two files, the manifest and the pointer are four uploads"
    assert (current.local / "a.txt").read_text() == "new a"
    assert len(lake.garbage(older_than=-1)) == 2, "one died after the first file, one after the second"
    assert len(lake.superseded(keep=0)) == 2, (
        "one died before it moved the pointer; the other one is the old snapshot"
    )


PUBLISH_MANY = textwrap.dedent(
    """
    import sys
    from resources.lake import Lake
    from resources.snapshot import PointerMovedError

    uri, endpoint, name, times = sys.argv[1:]
    lake = Lake(uri=uri, endpoint_url=endpoint or None)
    for number in range(int(times)):
        try:
            with lake.stage("clean_corpus", "law") as staging:
                for part in ("a", "b", "c"):
                    (staging.folder / part).write_text(f"{name}{number}" * 100)
                lake.commit(staging, asset="clean_corpus", domain="law", fingerprint=f"{name}{number}")
            print("won")
        except PointerMovedError:
            print("told")
    """
)


def test_two_publishers_at_once_never_show_half_a_snapshot_and_each_is_told_whether_it_won(
    lake: Lake,
) -> None:
    times = 40 if lake.endpoint_url is None else 12
    commands = [
        [sys.executable, "-c", PUBLISH_MANY, lake.uri, lake.endpoint_url or "", name, str(times)]
        for name in ("x", "y")
    ]
    processes = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    seen = set()
    while any(process.poll() is None for process in processes):
        snapshot = lake.find("clean_corpus", "law")
        if snapshot is not None:
            assert snapshot.verify() == []
            assert len({(snapshot.folder / part).read_text() for part in "abc"}) == 1
            seen.add(snapshot.manifest.version)
        time.sleep(0.002)
    answers = [line for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(seen) > 2
    assert len(answers) == 2 * times
    assert len(lake.versions("clean_corpus", "law")) == answers.count("won")


def test_of_many_writers_that_began_with_the_same_snapshot_exactly_one_wins(lake: Lake) -> None:
    """Eight at once, and every other is told and leaves nothing behind."""
    for race in range(6):
        start = threading.Barrier(8)

        def write(number: int, start: threading.Barrier = start, race: int = race) -> str | None:
            with lake.stage("clean_corpus", "law") as staging:
                (staging.folder / "a.txt").write_text(f"{race} {number}")
                start.wait()
                try:
                    lake.commit(staging, asset="clean_corpus", domain="law", fingerprint="")
                except PointerMovedError as error:
                    assert "was published by somebody else" in str(error)
                    raise
                return staging.target.name

        with ThreadPoolExecutor(8) as pool:
            writers = [pool.submit(write, number) for number in range(8)]
        won = [writer.result() for writer in writers if writer.exception() is None]
        assert won == [lake.current("clean_corpus", "law").manifest.version]
        assert {type(writer.exception()) for writer in writers} == {type(None), PointerMovedError}
        assert len(lake.versions("clean_corpus", "law")) == race + 1


def test_a_pointer_to_a_lost_snapshot_is_an_error_that_names_it(local_lake: Lake) -> None:
    snapshot = publish(local_lake, "x")
    pointer = Path(local_lake.uri) / "clean_corpus" / "law" / POINTER
    pointer.write_text(json.dumps({"version": "lost"}))
    with pytest.raises(LakeError, match=r"lost/manifest\.json is missing"):
        local_lake.current("clean_corpus", "law")
    assert local_lake.open("clean_corpus", "law", snapshot.manifest.version).verify() == []


def test_a_workspace_outlives_the_process_and_goes_when_it_is_dropped(lake: Lake) -> None:
    with pytest.raises(InterruptedError), lake.workspace("lora_adapter", "law", "f1") as folder:
        (folder / "checkpoint").write_text("step 3")
        raise InterruptedError
    with lake.workspace("lora_adapter", "law", "f1") as folder:
        assert (folder / "checkpoint").read_text() == "step 3"
    with lake.workspace("lora_adapter", "law", "f2") as folder:
        assert not list(folder.iterdir())
        (folder / "checkpoint").write_text("of another computation")
        lake.drop_workspace("lora_adapter", "law", "f1")
        lake.drop_workspace("lora_adapter", "law", "f1")
        assert (folder / "checkpoint").read_text() == "of another computation"
    with lake.workspace("lora_adapter", "law", "f1") as folder:
        assert not list(folder.iterdir())


def test_checkpoints_that_nobody_took_up_are_garbage(lake: Lake) -> None:
    with pytest.raises(InterruptedError), lake.workspace("lora_adapter", "law", "f1") as folder:
        (folder / "checkpoint").write_text("step 3")
        raise InterruptedError
    assert lake.garbage() == [], "somebody may still take them up"
    assert [path.name for path in lake.collect(older_than=-1)] == ["f1"]
    assert lake.garbage(older_than=-1) == []
    assert lake.assets() == []


def test_what_killed_processes_left_in_the_cache_is_collected_and_nothing_that_is_used(
    s3_endpoint: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    lake = Lake(uri=f"s3://lake/{uuid.uuid4().hex}", endpoint_url=s3_endpoint, cache=str(cache))
    fetched = publish(lake, "text").local
    left = [".fetch-a", "given/.fetch-b", "_work/lora_adapter/law/attempt-c"]
    for name in left:
        (cache / name).mkdir(parents=True)
        (cache / name / "half.safetensors").write_text("x")
    with lake.workspace("lora_adapter", "law", "f") as folder:
        (folder / "checkpoint").write_text("step 3")
        assert lake.collect() == [], "young folders may still be written to"
        assert [path.path for path in lake.collect(older_than=-1)] == [
            str(cache / name) for name in sorted(left)
        ]
        assert (folder / "checkpoint").exists()
    assert (fetched / "part" / "a.txt").read_text() == "text"


def test_checkpoints_of_a_living_run_are_never_garbage_however_old(local_lake: Lake) -> None:
    with local_lake.workspace("lora_adapter", "law", "f1"):
        assert local_lake.garbage(older_than=-1) == []
    assert len(local_lake.garbage(older_than=-1)) == 1


def test_a_folder_that_is_being_written_is_never_garbage_however_old(local_lake: Lake) -> None:
    with local_lake.stage("clean_corpus", "law") as staging:
        assert local_lake.garbage(older_than=-1) == []
        (staging.folder / "a.txt").write_text("still writing")
    assert [path.name for path in local_lake.garbage(older_than=-1)] == [staging.target.name]


def test_a_publisher_interrupted_once_its_snapshot_is_current_does_not_remove_it(
    local_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> None:
        if folder.name == "law":  # which holds the pointer: it has just been replaced
            raise KeyboardInterrupt

    publish(local_lake, "old")
    monkeypatch.setattr(pointer, "flush", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(local_lake, "new")
    assert local_lake.current("clean_corpus", "law").verify() == []
    assert (local_lake.current("clean_corpus", "law").local / "part" / "a.txt").read_text() == "new"


def test_a_publisher_that_fails_leaves_nothing_behind(local_lake: Lake) -> None:
    with pytest.raises(RuntimeError), local_lake.stage("clean_corpus", "law") as staging:
        (staging.folder / "a.txt").write_text("half")
        raise RuntimeError
    assert not staging.folder.exists()

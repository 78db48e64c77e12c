"""The loader on S3: a real protocol server, and a proxy in front of it that breaks things."""

import fcntl
import json
import multiprocessing
import re
import socket
import threading
import time
import warnings
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader
from upath import UPath

from yunmin_assets.columnar import DamagedFileError, MixedDataset, PackConfig, PackedDataset, pack_documents
from yunmin_assets.columnar.block_cache import LOCK_FILE

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def shards(packed):
    """How many shards, each one block, `packed` has."""
    return len(list(packed.glob("*.parquet")))


@pytest.fixture(scope="module")
def uploaded(packed, s3_endpoint):
    """`packed` at s3://lake/for-loader."""
    root = UPath("s3://lake/for-loader", **options(s3_endpoint))
    for path in packed.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    return root


def options(endpoint):
    return {"client_kwargs": {"endpoint_url": endpoint}}


@pytest.fixture
def remote(proxy, tmp_path):
    """The `remote` option of a loader that reads through the proxy."""
    return {"cache": tmp_path / "cache", "storage_options": options(proxy.url)}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("yunmin_assets.columnar.remote_shards.FIRST_PAUSE_SECONDS", 0.001)


def test_remote_batches_are_those_of_the_folder(uploaded, packed, remote, proxy, same_batches, shards):
    local = PackedDataset(packed, shuffle_blocks=True, window_pages=11)
    dataset = PackedDataset("s3://lake/for-loader", window_pages=11, remote=remote)
    assert dataset.state_dict() == local.state_dict()
    assert same_batches(dataset, local)
    assert len(proxy.ranges) == len(set(proxy.ranges)) == shards  # one GET for each block


def test_a_path_object_carries_its_own_options(uploaded, packed, tmp_path, same_batches):
    dataset = PackedDataset(uploaded, shuffle_blocks=False, remote={"cache": tmp_path / "cache"})
    assert same_batches(dataset, PackedDataset(packed))


def test_what_is_in_the_cache_is_not_fetched_again(uploaded, remote, proxy):
    list(PackedDataset("s3://lake/for-loader", remote=remote))
    fetched = len(proxy.ranges)
    list(PackedDataset("s3://lake/for-loader", remote=remote, epochs=2))
    assert len(proxy.ranges) == fetched


def test_indexes_are_fetched_once_for_all_that_share_the_cache(uploaded, remote, proxy, shards):
    for _ in range(2):
        PackedDataset("s3://lake/for-loader", remote=remote)
    indexes = [path for method, path, _ in proxy.requests if method == "GET" and "index" in path]
    assert len(indexes) == len(set(indexes)) == shards


def test_an_index_that_is_damaged_in_the_cache_is_fetched_again(uploaded, packed, remote, same_batches):
    PackedDataset("s3://lake/for-loader", remote=remote)
    for path in remote["cache"].glob("*.block"):
        path.write_bytes(path.read_bytes()[::-1])
    dataset = PackedDataset("s3://lake/for-loader", remote=remote)
    assert same_batches(dataset, PackedDataset(packed, shuffle_blocks=True))


def test_single_pages_from_a_small_cache_are_warned_of(uploaded, packed, remote):
    stored = sum(path.stat().st_size for path in packed.glob("*.parquet"))
    small = {**remote, "cache_bytes": stored - 1}
    with pytest.warns(UserWarning, match="an epoch fetches the same blocks many times"):
        PackedDataset("s3://lake/for-loader", shuffle_blocks=False, remote=small)
    with pytest.warns(UserWarning, match=f"with {stored:,} bytes of remote shards"):
        paths = {"here": packed, "there": "s3://lake/for-loader"}
        MixedDataset(paths, {"here": 1, "there": 1}, shuffle_blocks=False, remote=small)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        PackedDataset("s3://lake/for-loader", remote=small)
        PackedDataset("s3://lake/for-loader", shuffle=False, shuffle_blocks=False, remote=small)
        PackedDataset("s3://lake/for-loader", shuffle_blocks=False, remote={**remote, "cache_bytes": stored})


def test_a_remote_loop_resumes_exactly(uploaded, remote, same_batches):
    whole = list(PackedDataset("s3://lake/for-loader", batch_size=24, remote=remote))
    stopped = PackedDataset("s3://lake/for-loader", batch_size=24, remote=remote)
    for _ in zip(range(7), stopped, strict=False):
        pass
    resumed = PackedDataset("s3://lake/for-loader", batch_size=24, remote=remote)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert same_batches(resumed, whole[7:])


@pytest.mark.parametrize("fault", ["refuse", "cut", "flip", "empty"])
def test_requests_that_fail_are_repeated(
    uploaded, packed, remote, proxy, same_batches, fault, shards, caplog
):
    proxy.breaks = lambda name, before: fault if before < 3 else None
    dataset = PackedDataset("s3://lake/for-loader", remote=remote)
    assert same_batches(dataset, PackedDataset(packed, shuffle_blocks=True))
    assert len(proxy.ranges) == 4 * shards
    for name in ("manifest.json", "shard-00002.index.safetensors", r"shard-00002.parquet, bytes \d+ to \d+"):
        noted = [
            message for message in caplog.messages if re.match(f"s3://lake/for-loader/{name}: ", message)
        ]
        assert [re.search(r"attempt \d of 6 failed", message)[0] for message in noted] == [
            f"attempt {number} of 6 failed" for number in (1, 2, 3)
        ]


def test_an_answer_that_stays_too_short_is_named(uploaded, remote, proxy):
    proxy.breaks = lambda name, before: "empty" if name.endswith(".parquet") else None
    with pytest.raises(DamagedFileError, match=r"shard-0000\d\.parquet: the store sent 0 of \d+ bytes"):
        list(PackedDataset("s3://lake/for-loader", remote=remote))


def test_a_store_that_never_answers_is_given_up_by_name(remote, caplog):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        storage = {**options(url), "config_kwargs": {"read_timeout": 0.2}}
        started = time.monotonic()
        with pytest.raises(
            OSError, match=r"s3://lake/x/manifest\.json could not be read in 6 attempts and \d+ s"
        ):
            PackedDataset("s3://lake/x", remote={**remote, "storage_options": storage})
    assert time.monotonic() - started < 15
    assert len([message for message in caplog.messages if "attempt" in message]) == 5


def test_attempts_end_after_a_while_even_when_there_are_some_left(uploaded, remote, proxy, monkeypatch):
    monkeypatch.setattr("yunmin_assets.columnar.remote_shards.LAST_ATTEMPT_SECONDS", 0)
    proxy.breaks = lambda name, before: "refuse"
    with pytest.raises(OSError, match=r"manifest\.json could not be read in 1 attempts"):
        PackedDataset("s3://lake/for-loader", remote=remote)


@pytest.mark.parametrize(
    ("status", "kind"), [(400, OSError), (403, PermissionError), (404, FileNotFoundError)]
)
def test_what_is_forbidden_or_absent_fails_at_once_by_name(uploaded, remote, proxy, caplog, status, kind):
    proxy.status = status
    with pytest.raises(kind, match=r"s3://lake/for-loader/manifest\.json"):
        PackedDataset("s3://lake/for-loader", remote=remote)
    assert not [message for message in caplog.messages if "attempt" in message]


@pytest.mark.parametrize(
    ("path", "more", "problem"),
    [
        ("s3://lake/x", {}, "NoCredentialsError"),
        ("s3://lake/x", {"profile": "absent"}, "ProfileNotFound"),
        ("s3://Not_a_bucket!/x", {"key": "a", "secret": "b"}, "Invalid bucket name"),
    ],
)
def test_a_wrong_question_fails_at_once(remote, proxy, monkeypatch, tmp_path, caplog, path, more, problem):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(OSError, match=problem):
        PackedDataset(path, remote={**remote, "storage_options": {**options(proxy.url), **more}})
    assert proxy.requests == []
    assert not [message for message in caplog.messages if "attempt" in message]


def test_damage_that_stays_is_named_with_page_and_rows(uploaded, packed, remote, proxy):
    proxy.breaks = lambda name, before: "flip" if name.endswith(".parquet") else None
    with pytest.raises(
        DamagedFileError, match=r"s3://lake/for-loader/shard-0000\d\.parquet: page 0 \(rows 0 to 3\)"
    ):
        list(PackedDataset("s3://lake/for-loader", remote=remote))
    deadline = time.monotonic() + 20
    while any(path.suffix == ".part" for path in remote["cache"].iterdir()):  # other blocks on their way
        assert time.monotonic() < deadline
        time.sleep(0.01)
    indexes = {path.read_bytes() for path in packed.glob("*.index.safetensors")}
    assert {path.read_bytes() for path in remote["cache"].glob("*.block")} == indexes


def test_a_copy_that_is_damaged_in_the_cache_is_fetched_again(
    uploaded, packed, remote, proxy, same_batches, shards
):
    list(PackedDataset("s3://lake/for-loader", remote=remote))
    for path in remote["cache"].iterdir():
        data = bytearray(path.read_bytes())
        if data:
            data[100] ^= 1
            path.write_bytes(data)
    proxy.ranges.clear()
    dataset = PackedDataset("s3://lake/for-loader", remote=remote)
    assert same_batches(dataset, PackedDataset(packed, shuffle_blocks=True))
    assert len(proxy.ranges) == shards


def test_what_is_missing_or_cut_short_is_named(uploaded, packed, s3_endpoint, tmp_path):
    root = UPath("s3://lake/broken-for-loader", **options(s3_endpoint))
    remote = {"cache": tmp_path / "cache"}
    with pytest.raises(FileNotFoundError, match=r"s3://lake/broken-for-loader/manifest\.json is missing"):
        PackedDataset(root, remote=remote)
    for path in packed.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    (root / "shard-00001.parquet").write_bytes((packed / "shard-00001.parquet").read_bytes()[:-1])
    with pytest.raises(
        DamagedFileError, match=r"s3://lake/broken-for-loader/shard-00001\.parquet: the file has"
    ):
        PackedDataset(root, remote=remote)
    (root / "shard-00001.parquet").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"s3://lake/broken-for-loader/shard-00001\.parquet is missing"
    ):
        PackedDataset(root, remote=remote)


def test_workers_read_remote_shards_as_well(uploaded, packed, remote, same_batches):
    dataset = PackedDataset("s3://lake/for-loader", remote=remote)
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    next(iter(dataset))  # the parent has threads and connections of its own when it forks
    dataset.load_state_dict({**dataset.state_dict(), "samples": 0})
    assert same_batches(loader, PackedDataset(packed, shuffle_blocks=True))


@pytest.fixture(scope="module")
def large(tmp_path_factory, s3_endpoint):
    """72 MB of tokens at s3://lake/large-for-loader, in two shards, and the folder they were packed in."""
    folder = tmp_path_factory.mktemp("large") / "data"
    config = PackConfig(seq_len=2048, vocab_size=500, compression="none", shard_bytes=60 * MEGABYTE)
    random = np.random.default_rng(0)
    pack_documents((random.integers(1, 500, 1_000_000) for _ in range(36)), folder, config)
    root = UPath("s3://lake/large-for-loader", **options(s3_endpoint))
    for path in folder.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    return folder


def test_blocks_are_fetched_in_ranges_of_8_to_32_megabytes_and_once_per_epoch(
    large, remote, proxy, same_batches
):
    dataset = PackedDataset("s3://lake/large-for-loader", batch_size=256, window_pages=512, remote=remote)
    assert same_batches(dataset, PackedDataset(large, batch_size=256, window_pages=512, shuffle_blocks=True))
    sizes = [end - begin + 1 for _, begin, end in proxy.ranges]
    assert all(size <= 32 * MEGABYTE for size in sizes)
    per_shard = Counter(path for path, _, _ in proxy.ranges)
    small = [size for size in sizes if size < 8 * MEGABYTE]
    assert len(small) <= len(per_shard)  # only what is left at the end of a shard
    assert sum(sizes) <= 1.01 * sum(path.stat().st_size for path in large.glob("*.parquet"))


def watch(folder, largest, stop):
    """Looks while nobody changes the folder: else it would count what goes and what comes in its place."""
    while not stop.wait(0.001):
        with (folder / LOCK_FILE).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            largest.value = max(largest.value, sum(path.stat().st_size for path in folder.iterdir()))


def read_all(options, sums):
    total = 0
    for batch in PackedDataset(
        "s3://lake/large-for-loader", batch_size=256, window_pages=256, remote=options
    ):
        total += int(batch["input_ids"].sum())
    sums.put(total)


def test_processes_share_a_cache_that_never_exceeds_its_bound(large, remote, s3_endpoint):
    context = multiprocessing.get_context("spawn")
    bound = 40 * MEGABYTE  # two blocks of 16 MB and a bit, of a data set of 72
    shared = {**remote, "cache_bytes": bound, "storage_options": options(s3_endpoint)}
    remote["cache"].mkdir()
    largest, stop, sums = context.Value("q", 0), threading.Event(), context.Queue()
    watcher = threading.Thread(target=watch, args=(remote["cache"], largest, stop))
    watcher.start()
    processes = [context.Process(target=read_all, args=(shared, sums)) for _ in range(2)]
    for process in processes:
        process.start()
    found = {sums.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    stop.set()
    watcher.join()
    expected = sum(int(batch["input_ids"].sum()) for batch in PackedDataset(large, batch_size=256))
    assert found == {expected}
    assert 0 < largest.value <= bound


def test_a_cache_smaller_than_a_block_is_refused(large, remote):
    dataset = PackedDataset("s3://lake/large-for-loader", remote={**remote, "cache_bytes": MEGABYTE})
    with pytest.raises(ValueError, match="raise cache_bytes"):
        next(iter(dataset))

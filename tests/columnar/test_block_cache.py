import fcntl
import multiprocessing
import os
import signal
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from tests.columnar.toy_domain import files_no_larger_than
from yunmin_assets.columnar.block_cache import LOCK_FILE, BlockCache

DEADLINE_SECONDS = 20


def fail():
    raise ConnectionError


@contextmanager
def forked_process():
    """A child that does nothing but have the files of this process open."""
    child = os.fork()
    if child == 0:
        time.sleep(10 * DEADLINE_SECONDS)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def ends(thread):
    thread.join(DEADLINE_SECONDS)
    return not thread.is_alive()


def bytes_on_disk(folder):
    """While nobody may add to them."""
    with (folder / LOCK_FILE).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(entry.stat().st_size for entry in os.scandir(folder))


def test_the_cache_drops_what_was_used_the_longest_time_ago(tmp_path):
    cache, fetched = BlockCache(tmp_path, 250), []

    def content(name):
        fetched.append(name)
        return name.encode() * 100

    for number, name in enumerate("abacab"):
        with cache.open(name, lambda name=name: content(name)) as file:
            assert os.pread(file.fileno(), 1000, 0) == name.encode() * 100
            os.utime(file.fileno(), (number, number))
    assert fetched == ["a", "b", "c", "b"]  # "a" was used again before "c" came
    assert bytes_on_disk(tmp_path) == 200


def test_a_block_that_is_dropped_stays_readable_to_who_has_it_open(tmp_path):
    cache = BlockCache(tmp_path, 150)
    with cache.open("a", lambda: b"a" * 100) as file:
        cache.open("b", lambda: b"b" * 100).close()
        assert bytes_on_disk(tmp_path) == 100
        assert file.read() == b"a" * 100


def read_many(folder, seed):
    cache = BlockCache(folder, 250)
    for number in range(4000):
        name = str((number * seed) % 5)
        with cache.open(name, lambda name=name: name.encode() * 100) as file:
            assert file.read() == name.encode() * 100


def test_processes_that_crowd_a_small_cache_never_lose_a_block_nor_exceed_the_bound(tmp_path):
    context, largest = multiprocessing.get_context("fork"), 0
    processes = [context.Process(target=read_many, args=(tmp_path, seed)) for seed in (1, 2, 3, 5, 7)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        largest = max(largest, bytes_on_disk(tmp_path))
        time.sleep(0.001)
    assert [process.exitcode for process in processes] == [0] * 5
    assert 0 < largest <= 250


def test_threads_that_want_the_same_block_fetch_it_once(tmp_path):
    cache, fetched = BlockCache(tmp_path, 1000), []

    def fetch():
        fetched.append(1)
        time.sleep(0.05)
        return b"a" * 100

    threads = [threading.Thread(target=lambda: cache.open("a", fetch).close()) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    cache = BlockCache(tmp_path, 250)
    cache.open("killed", lambda: b"x" * 200).close()
    (left,) = tmp_path.glob("*.block")
    left.rename(left.with_name(left.name + ".part"))
    cache.open("new", lambda: b"y" * 100).close()
    assert bytes_on_disk(tmp_path) == 100
    assert len(list(tmp_path.iterdir())) == 2  # the block, the lock


def test_what_a_killed_process_left_of_the_same_block_is_overwritten(tmp_path):
    cache = BlockCache(tmp_path, 250)
    cache.open("a", lambda: b"x" * 200).close()
    (left,) = tmp_path.glob("*.block")
    left.rename(left.with_name(left.name + ".part"))
    with cache.open("a", lambda: b"y" * 100) as file:
        assert file.read() == b"y" * 100


def test_files_of_others_are_neither_removed_nor_counted(tmp_path):
    (tmp_path / "thesis.tex").write_bytes(b"x" * 1000)
    (tmp_path / "download.part").write_bytes(b"x" * 1000)
    (tmp_path / "photos").mkdir()
    cache = BlockCache(tmp_path, 150)
    for name in "abc":
        cache.open(name, lambda: b"y" * 100).close()
    assert {"thesis.tex", "download.part", "photos"} <= {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.glob("*.block"))) == 1


def test_a_failed_fetch_leaves_nothing_and_may_be_repeated(tmp_path):
    cache = BlockCache(tmp_path, 250)
    with pytest.raises(ConnectionError):
        cache.open("a", fail)
    assert list(tmp_path.iterdir()) == []
    with cache.open("a", lambda: b"a" * 100) as file:
        assert file.read() == b"a" * 100


def test_who_waits_for_a_fetch_that_fails_goes_on_although_a_fork_has_its_file_open(tmp_path):
    cache, is_waiting = BlockCache(tmp_path, 250), threading.Event()

    def wait_and_fetch():
        is_waiting.set()
        cache.open("a", lambda: b"a" * 100).close()

    waiter = threading.Thread(target=wait_and_fetch, daemon=True)

    def fork_and_fail():
        forks.enter_context(forked_process())
        waiter.start()
        is_waiting.wait()
        time.sleep(0.1)
        fail()

    with ExitStack() as forks:
        with pytest.raises(ConnectionError):
            cache.open("a", fork_and_fail)
        assert ends(waiter)


def test_the_folder_is_unlocked_although_a_fork_has_its_lock_open(tmp_path):
    cache = BlockCache(tmp_path, 250)
    reader = threading.Thread(target=lambda: cache.open("a", lambda: b"a" * 100).close(), daemon=True)
    with ExitStack() as forks:
        with cache._locked():
            forks.enter_context(forked_process())
        reader.start()
        assert ends(reader)


def test_a_block_larger_than_the_cache_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ValueError, match="may hold 50 bytes, less than one block of 100: raise cache_bytes"):
        BlockCache(tmp_path, 50).open("a", lambda: b"a" * 100)


def test_a_full_disk_is_named_with_folder_and_cure(tmp_path):
    cache = BlockCache(tmp_path, 10_000)
    problem = rf"the cache {tmp_path} did not take a block of 5000 bytes \(File too large\): make room"
    with files_no_larger_than(1000), pytest.raises(OSError, match=problem):
        cache.open("a", lambda: b"a" * 5000)
    assert bytes_on_disk(tmp_path) == 0

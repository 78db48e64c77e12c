"""Fixtures that several stages share."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import RetryPolicy

from resources.lake import open_uri
from tests.s3_proxy import Proxy

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
SERVER_START_SECONDS = 60.0
LONGEST_FIRST = ("test_backfill_in_pods.py", "test_whole_graph.py", "test_backfill.py")
"""Files of minutes, much of them spent waiting: begun last, they would end alone."""


@pytest.fixture(autouse=True)
def no_pauses_between_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """An asset that fails is tried again at once; how long the pauses are is Dagster's affair."""
    monkeypatch.setattr(RetryPolicy, "calculate_delay", lambda policy, attempt: 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real Korean text that lies beside the repository; tests that need it skip where it is absent."""
    if not SHARED_DATA.exists():
        pytest.skip("../shared/data is absent: this test runs on real Korean text beside the repository")
    return SHARED_DATA


def free_port() -> int:
    """A TCP port that nobody uses at the moment."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of a real S3 protocol server on this machine."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_it_answers(url)
        open_uri("s3://lake", url).fs.mkdir("lake")
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    """Stands before the S3 server and breaks what it is told to."""
    server = Proxy(s3_endpoint)
    yield server
    server.shutdown()
    server.server_close()


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError(f"nothing answers at {url}")

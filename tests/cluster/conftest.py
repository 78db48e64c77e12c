"""A small cluster with its API server, for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.cluster import Cluster
from tests.conftest import REPOSITORY

GPUS = 2


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[ApiServer]:
    """An empty cluster of two GPUs."""
    cluster = Cluster(tmp_path, working_directory=REPOSITORY, gpus=GPUS)
    with cluster.running(), ApiServer(cluster) as server:
        yield server

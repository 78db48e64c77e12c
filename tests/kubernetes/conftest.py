"""A small cluster with its API server, for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.kubernetes.api_server import ApiServer
from tests.kubernetes.cluster import Cluster

GPUS = 2


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[ApiServer]:
    """An empty cluster of two GPUs."""
    cluster = Cluster(tmp_path, working_directory=REPOSITORY, gpus=GPUS)
    with cluster.running(), ApiServer(cluster) as server:
        yield server

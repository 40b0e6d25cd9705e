"""Fixtures of the tests with real workers: projects isolated from the surrounding test run."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from tests import leftovers
from tests.xdist.cluster import Cluster

nothing_left_behind = leftovers.nothing_left_behind


@pytest.fixture
def cluster(own_temporary_folder: Path, tmp_path: Path, byte_code: None) -> Cluster:
    """An empty project."""
    return Cluster(tmp_path)


class MakeCluster(Protocol):
    """The type of the fixture `make_cluster`."""

    def __call__(self, name: str) -> Cluster:
        """Create an empty project in a folder with this name."""


@pytest.fixture(scope="session")
def make_cluster(
    own_temporary_folder: Path, tmp_path_factory: pytest.TempPathFactory, byte_code: None
) -> MakeCluster:
    """Creates empty projects for tests that share a run."""
    return lambda name: Cluster(tmp_path_factory.mktemp(name))

"""Fixtures of the documentation tests: projects that are isolated from their surroundings."""

from pathlib import Path

import pytest

from tests.docs.shell import Shell
from tests.plugin import surroundings
from tests.xdist import conftest as xdist

cluster = xdist.cluster
outside = surroundings.outside
project = surroundings.project


@pytest.fixture
def shell(outside: None, own_temporary_folder: Path, tmp_path: Path) -> Shell:
    """A shell in an empty folder."""
    return Shell(tmp_path)

"""Fixtures of the report tests."""

from tests.plugin.surroundings import (  # noqa: F401
    nothing_left_behind,
    outside,
    own_temporary_folder,
    project,
    quick_ladder,
)
from tests.xdist import conftest as xdist

cluster = xdist.cluster

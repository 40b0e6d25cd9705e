"""Fixtures for the report tests."""

from tests.leftovers import nothing_left_behind  # noqa: F401
from tests.plugin.surroundings import outside, project, quick_escalation  # noqa: F401
from tests.xdist import conftest as xdist

cluster = xdist.cluster

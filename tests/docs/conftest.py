"""Fixtures of the documentation tests: projects that are isolated from their surroundings."""

from tests.plugin import surroundings
from tests.xdist import conftest as xdist

cluster = xdist.cluster
outside = surroundings.outside
project = surroundings.project

"""Fixtures of the tests of the documentation: projects apart from everything around them."""

from tests.xdist import conftest as xdist

cluster = xdist.cluster
own_temporary_folder = xdist.own_temporary_folder

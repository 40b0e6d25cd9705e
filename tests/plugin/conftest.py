"""Fixtures of the plugin tests."""

from tests.leftovers import nothing_left_behind  # noqa: F401
from tests.plugin.sharing_runs import runs  # noqa: F401
from tests.plugin.surroundings import outside, project, quick_escalation  # noqa: F401

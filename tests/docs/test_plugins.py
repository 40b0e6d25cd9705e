"""The page about other plugins tells of exactly those that are tried."""

from __future__ import annotations

import re
import tomllib

from tests.plugin.project import ROOT
from tests.plugins import table
from tests.plugins.catalogue import PLUGINS

_FOR_OTHERS = {"Django"}  # a dependency of pytest-django, not a plugin


def test_every_plugin_is_in_the_table() -> None:
    """`PLUGINS_WRITE_TABLE=1` writes it; see docs/reference/plugins.md."""
    assert table.names() == {plugin.name for plugin in PLUGINS}


def test_every_plugin_is_installed_for_it() -> None:
    """The extra `plugins` and the catalogue name the same distributions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["plugins"]
    assert {re.split("[<>=]", one)[0] for one in extra} - _FOR_OTHERS == {
        plugin.name for plugin in PLUGINS
    }

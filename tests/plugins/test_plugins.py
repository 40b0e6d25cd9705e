"""Every plugin of the catalogue works next to steps, and shows what failed for what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.plugins import looks, suite, table
from tests.plugins.catalogue import PLUGINS, Plugin
from tests.plugins.suite import Ended, Fault

pytestmark = [
    pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name),
    pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["solo", "n2"]),
]


def _run(folder: Path, plugin: Plugin, fault: Fault, workers: tuple[str, ...]) -> Ended:
    suite.write(folder, plugin.files, ini=plugin.ini)
    ended = suite.run(folder, fault, *plugin.options, *workers)
    assert "INTERNALERROR" not in ended.output, ended.output
    assert not re.search(r"^\S*/pytest_plan/\S+:\d+: ", ended.output, re.MULTILINE), ended.output
    return ended


def test_steps_and_tests_succeed(
    tmp_path: Path, plugin: Plugin, workers: tuple[str, ...], cells: dict[str, str]
) -> None:
    """The plugin does its work, and what it counts are tests, not steps."""
    ended = _run(tmp_path, plugin, Fault.NONE, workers)
    assert ended.status == 0, ended.output
    plugin.check(ended)
    assert plugin.summary in ended.output, ended.output
    assert not [nodeid for nodeid in plugin.look(ended) if looks.is_about_steps(nodeid)]
    cells |= {
        table.NAME: plugin.name,
        "version": plugin.version,
        " ".join(workers) or "solo": "yes",
    }


def test_a_failed_step_is_shown_once(
    tmp_path: Path, plugin: Plugin, workers: tuple[str, ...], cells: dict[str, str]
) -> None:
    """It has its error and its output; the test that needs it is shown as blocked, once."""
    ended = _run(tmp_path, plugin, Fault.STEP, workers)
    assert ended.status == 1, ended.output
    seen = plugin.look(ended)
    step = looks.says(seen, suite.STEP, suite.STEP_ERROR)
    assert suite.PRINTED in step.text
    blocked = looks.says(seen, plugin.blocked, "'shop' failed")
    cells |= {
        table.NAME: plugin.name,
        "failed step": plugin.shown(step.word),
        "blocked test": plugin.shown(blocked.word),
    }


def test_a_failed_cleanup_is_shown_once(
    tmp_path: Path, plugin: Plugin, workers: tuple[str, ...], cells: dict[str, str]
) -> None:
    """It has its error; the run is red, although every test has passed."""
    ended = _run(tmp_path, plugin, Fault.CLEANUP, workers)
    assert ended.status == 1, ended.output
    cleanup = looks.says(plugin.look(ended), suite.CLEANUP, suite.CLEANUP_ERROR)
    cells |= {table.NAME: plugin.name, "failed cleanup": plugin.shown(cleanup.word)}

"""Checks versions, and how pytest has loaded this plugin and others."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata

import pytest

from pytest_plan.plugin.commands.doctor.finding import Finding, Level
from pytest_plan.plugin.session import lookup

_OURS = "pytest-plan"
_PLUGINS = {"pytest-xdist": "xdist", "pytest-timeout": "timeout"}  # needed, and by what name loaded
# Those of docs/reference/plugins.md.
TRIED = (
    "allure-pytest anyio flaky freezegun hypothesis pytest-asyncio pytest-bdd pytest-benchmark "
    "pytest-cov pytest-django pytest-env pytest-forked pytest-html pytest-instafail "
    "pytest-json-report pytest-mock pytest-order pytest-randomly pytest-repeat pytest-reportlog "
    "pytest-rerunfailures pytest-retry pytest-split pytest-subtests pytest-sugar pytest-testmon "
    "pytest-tldr pytest-xprocess syrupy teamcity-messages time-machine"
).split()


def python() -> Iterator[Finding]:
    """Check the version of Python and the system."""
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    text = f"{platform.python_version()} ({platform.python_implementation()}), {system}"
    if sys.platform == "linux":
        yield Finding(Level.OK, "python", text)
    else:
        yield Finding(Level.NOTE, "python", text, "pytest-plan is tested on Linux only")


def packages(config: pytest.Config) -> Iterator[Finding]:
    """Check the versions of the packages that this one needs, and whether pytest has loaded them.

    Args:
        config: the config of this process.
    """
    from packaging.requirements import Requirement  # a dependency of pytest

    wanted = [Requirement(text) for text in metadata.requires(_OURS) or ()]
    for one in sorted(wanted, key=lambda one: one.name):
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        cure = f"pip install '{one.name}{one.specifier}'"
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            yield Finding(Level.PROBLEM, one.name, "not installed", cure)
            continue
        plugin = _PLUGINS.get(one.name)
        if not one.specifier.contains(version, prereleases=True):
            yield Finding(Level.PROBLEM, one.name, f"{version} is too old", cure)
        elif plugin is not None and not config.pluginmanager.has_plugin(plugin):
            text = f"{version}, installed but not loaded"
            yield Finding(Level.NOTE, one.name, text, f"to load it: pytest -p {plugin}")
        else:
            yield Finding(Level.OK, one.name, version)


def ourselves(config: pytest.Config) -> Iterator[Finding]:
    """Check how pytest finds this plugin, and whether it could load the conftests.

    Args:
        config: the config of this process.
    """
    version = metadata.version(_OURS)
    if metadata.entry_points(group="pytest11", name="pytest_plan"):
        yield Finding(Level.OK, _OURS, f"{version}, installed")
    else:
        cure = "pip install pytest-plan, or pass -p pytest_plan to every run"
        yield Finding(Level.NOTE, _OURS, f"{version}, found on sys.path but not installed", cure)
    for failure in config.stash.get(lookup.FAILURES, []):
        cure = "fix the error that is shown above"
        yield Finding(Level.PROBLEM, "project", failure, cure)


def plugins(config: pytest.Config) -> Iterator[Finding]:
    """List the other plugins of pytest that are installed and loaded.

    Args:
        config: the config of this process.
    """
    found = config.pluginmanager.list_plugin_distinfo()
    loaded = {str(dist.metadata["Name"]): str(dist.version) for _, dist in found}
    others = {name: loaded[name] for name in sorted(loaded) if name not in (_OURS, *_PLUGINS)}
    tried = [f"{name} {version}" for name, version in others.items() if name in TRIED]
    if tried:
        yield Finding(Level.OK, "plugins", ", ".join(tried))
    if unknown := [f"{name} {version}" for name, version in others.items() if name not in TRIED]:
        yield Finding(
            Level.NOTE,
            "plugins",
            f"not tried with pytest-plan: {', '.join(unknown)}",
            "if a run behaves strangely, try it with -p no:NAME",
        )

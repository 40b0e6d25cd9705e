"""Loads all conftests of a project, so that all runs that share an environment know all steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest

from pytest_plan.plugin.compat import pytest_internals

_NAME = "conftest.py"


def load_all(config: pytest.Config) -> None:
    """Load the conftests below `testpaths`, or below the arguments if there is no `testpaths`.

    Shards collect different tests. They have the same plan only if each loads what the others do.

    Raises:
        pytest.UsageError: a conftest cannot be loaded.
    """
    for folder in _roots(config):
        for file in _conftests(config, folder):
            pytest_internals.load_conftest(config, os.path.relpath(file, config.rootpath))


def _roots(config: pytest.Config) -> list[Path]:
    patterns = [str(path) for path in config.getini("testpaths")]
    if patterns:
        # As pytest does: a pattern can also be `.`, absolute, or above rootdir.
        found = (glob(one, root_dir=config.rootpath, recursive=True) for one in patterns)
        return sorted(config.rootpath / path for paths in found for path in paths)
    given = [Path(config.invocation_params.dir, arg.split("::")[0]) for arg in config.args]
    return [path if path.is_dir() else path.parent for path in given if path.exists()]


def _conftests(config: pytest.Config, folder: Path) -> Iterator[Path]:
    for parent in reversed((folder, *folder.parents)):
        if parent.is_relative_to(config.rootpath) and (parent / _NAME).is_file():
            yield parent / _NAME
    for base, folders, files in os.walk(folder):
        path = Path(base)
        folders[:] = sorted(one for one in folders if not _is_ignored(config, path / one))
        if _NAME in files and path != folder:
            yield path / _NAME


def _is_ignored(config: pytest.Config, folder: Path) -> bool:
    return bool(config.hook.pytest_ignore_collect(collection_path=folder, config=config))

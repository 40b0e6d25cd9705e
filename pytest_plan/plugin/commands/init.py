"""Implements `--plan-init`: writes an example to start from, and changes no file that exists."""

from __future__ import annotations

import fnmatch
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT
from pytest_plan.plugin.run import launch

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_CONFTEST = "conftest.py"
_TESTS = ("test_plan_example.py", "plan_example_test.py")  # the first one that pytest collects
_FOLDERS = ("tests", "test")  # the usual folders of tests
_APART = "plan_example"  # the folder of the example where there is a conftest.py
_STEPS = '''\
"""An example to change, written by `pytest --plan-init`: steps that tests need."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pytest_plan import Context, State, plan_step
from pytest_plan.steps import http, service

# A step provisions something that tests need. It runs once, before the first test that
# needs it, no matter how many workers run the tests (`pytest -n 4`). What it returns is
# its value. Tests and other steps take the value by the name of the step.


@plan_step(timeout="60s", retries=1)
def example_server(ctx: Context, state: State) -> str:
    """Start a server for the tests. Replace the command with that of your server."""
    state["example_folder"] = ctx.tmp_path  # a folder that is removed at cleanup
    command = [sys.executable, "-m", "http.server", "{port}", "--bind", "{host}"]
    # `service` finds a free port, starts the program and waits until it answers.
    # Cleanup ends it with everything that it has started, even if pytest was killed.
    server = service(ctx, command, cwd=ctx.tmp_path, ready=http("/"))
    return f"{server.host}:{server.port}"


# This step names the step that it needs. A step that takes the value of another step as
# a parameter needs that step as well.
@plan_step(needs=["example_server"])
def example_page(ctx: Context, state: State) -> str:
    """Put a page on the server."""
    page = Path(state["example_folder"]) / "page.txt"
    page.write_text("Hello from a step")
    ctx.defer(os.remove, page)  # called at cleanup, however this step ends
    return f"/{page.name}"
'''
_CHECKS = '''\
"""An example to change, written by `pytest --plan-init`: tests that use the steps."""

from contextlib import closing
from http.client import HTTPConnection

from pytest_plan import PlanHandle


def test_page_is_served(example_server: str, example_page: str) -> None:
    """A test takes the values of steps. If a step fails, the test is blocked."""
    with closing(HTTPConnection(example_server)) as connection:
        connection.request("GET", example_page)
        assert connection.getresponse().read() == b"Hello from a step"


def test_state_is_shared(plan: PlanHandle, example_server: str) -> None:
    """The fixture `plan` has the State that all steps and tests share."""
    assert plan.state["example_server"] == example_server
'''


class Init(Command):
    """Writes a conftest with two steps, and tests that use them."""

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Write both files, or none.

        Raises:
            pytest.UsageError: there is an example already, or the folder cannot be used.
        """
        say = plan_session.host.foreground.say
        folder, name = self._folder(), self._name_of_tests()
        known = folder / _CONFTEST
        if os.path.lexists(known) and not os.path.lexists(folder / name):
            say(f"{self._shown(known)} exists and is not changed", always=True)
            folder = folder / _APART
        texts = {folder / _CONFTEST: _STEPS, folder / name: _CHECKS}
        try:
            _write(texts)
        except FileExistsError as error:
            raise pytest.UsageError(
                f"--plan-init: {self._shown(Path(error.filename))} exists already, so nothing was "
                "written"
            ) from None
        except OSError as error:
            raise pytest.UsageError(
                f"--plan-init: nothing was written: {error.strerror or error}: {error.filename}"
            ) from None
        conftest, tests = map(self._shown, texts)
        say(f"created {conftest} with the steps example_server and example_page", always=True)
        say(f"created {tests} with two tests that need them", always=True)
        say(f"to see the plan:  {self._typed(tests, '--plan-show')}", always=True)
        say(f"to run the tests: {self._typed(tests)}", always=True)
        return pytest.ExitCode.OK

    def _folder(self) -> Path:
        """Return the folder for the example: the given one, or else that of the project's tests.

        Raises:
            pytest.UsageError: several are given, or it is a file or outside of rootdir.
        """
        start = self._config.invocation_params.dir
        given = [arg.partition("::")[0] for arg in self._config.args]
        if self._config.args_source is pytest.Config.ArgsSource.ARGS:
            if len(given) > 1:
                raise pytest.UsageError("--plan-init takes at most one folder")
        elif self._config.args_source is pytest.Config.ArgsSource.INVOCATION_DIR:
            given = [*_FOLDERS, "."]
        found = [start / arg for arg in given if (start / arg).is_dir()] or [start / given[0]]
        folder, root = found[0], self._config.rootpath
        if folder.is_file() or folder.suffix == ".py":
            raise pytest.UsageError(f"--plan-init takes a folder, not the file {given[0]!r}")
        if not folder.resolve().is_relative_to(root.resolve()):
            raise pytest.UsageError(
                f"--plan-init: {self._shown(folder)} is {folder.resolve()}, which is outside of "
                f"the project (rootdir: {root}); name another folder"
            )
        return Path(os.path.normpath(folder))

    def _name_of_tests(self) -> str:
        """Return a name for the tests that pytest collects, if one of the usual names is."""
        patterns = self._config.getini("python_files")
        names = [name for name in _TESTS if any(fnmatch.fnmatch(name, one) for one in patterns)]
        return (names or _TESTS)[0]

    def _shown(self, path: Path) -> str:
        """Return a path as the user would type it."""
        start = self._config.invocation_params.dir
        return os.path.relpath(path, start) if path.is_relative_to(start) else str(path)

    def _typed(self, *args: str) -> str:
        return launch.typed(self._config, DEFAULT_ENVIRONMENT, *args)


def _write(texts: Mapping[Path, str]) -> None:
    """Write files that do not exist, all or none of them.

    Raises:
        FileExistsError: one exists.
        OSError: one cannot be written.
    """
    written: list[Path] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path, text)
            written.append(path)
    except OSError:
        for path in written:
            path.unlink()
        raise


def _create(path: Path, text: str) -> None:
    """Write a new file whole: it appears with its text, or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _create_in_place(draft, text)
        os.link(draft, path)
    except FileExistsError as error:
        raise FileExistsError(error.errno, error.strerror, str(path)) from None
    except OSError:
        if not draft.exists():
            raise
        _create_in_place(path, text)  # the file system has no links
    finally:
        draft.unlink(missing_ok=True)


def _create_in_place(path: Path, text: str) -> None:
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        file.write(text)

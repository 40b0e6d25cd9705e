"""The object by which a test stops and starts a program of a step."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

__tracebackhide__ = True  # makes pytest show the line of the test, not this module
_NAME = "pytest_plan_restored_programs"

Control = Callable[[str, str, "str | None"], str]


class ProgramHandle:
    """A program that a step has started, as a test sees it.

    If a test has stopped the program and has not started it again, it is started after the test.
    Cleanup ends it in each case.

    Attributes:
        step: the name of the step.
        name: the name of the executable.
    """

    __module__ = "pytest_plan"

    def __init__(self, control: Control, config: pytest.Config, step: str, run_name: str) -> None:
        self._control = control
        self._config = config
        self._run_name = run_name
        self.step: str = step
        self.name: str = ""

    def stop(self) -> None:
        """Ask the program to stop, and return once its whole process tree has ended.

        It gets its `stop_signal`, and processes that remain after its `stop_grace` are killed. If
        the program is not running, this method does nothing.

        Raises:
            TimeoutError: processes survived SIGKILL; the message lists them.
        """
        self._change("stop")

    def kill(self) -> None:
        """Kill the whole process tree of the program, and return once it has ended.

        If the program is not running, this method does nothing.

        Raises:
            TimeoutError: processes survived SIGKILL; the message lists them.
        """
        self._change("kill")

    def start(self) -> None:
        """Start the program again, and return once it is ready.

        The command, environment, working directory, user and ports are those of its first start.
        It is ready when it meets the `ready` of its first start, or else when it listens again
        wherever it has listened. If it is not ready in time, it is ended. The time is the `timeout`
        of its first start, or that of its step, or 60 s.

        If an earlier run has started it, the environment is that of this run, with the `env` of the
        step, and a `ready` that is a function is not called.

        Raises:
            RuntimeError: the program is running, has ended again, or another process has its port;
                or the journal could not record how an earlier run started it.
            TimeoutError: it was not ready in time; the message has the last answer.
        """
        self._change("start")

    def __repr__(self) -> str:
        return f"<ProgramHandle {self.name!r} of step {self.step!r}>"

    def _change(self, action: str) -> None:
        restored(self._config, self._control).due.add(self._run_name)
        self._control(action, self._run_name, self.name)


def restored(config: pytest.Config, control: Control) -> RestoredPrograms:
    """Return the plugin that restarts stopped programs; the first call registers it."""
    plugin: RestoredPrograms | None = config.pluginmanager.get_plugin(_NAME)
    if plugin is None:
        plugin = RestoredPrograms(control)
        config.pluginmanager.register(plugin, _NAME)
    return plugin


class RestoredPrograms:
    """Starts the programs that a test has stopped, after the test.

    Attributes:
        due: the steps of which the test has stopped or started a program.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self.due: set[str] = set()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Start programs after all fixtures; a plugin may then run the test once more."""
        try:
            return (yield)
        finally:
            self._restore()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logfinish(self) -> None:
        """Start programs that were first stopped in the teardown of a fixture."""
        self._restore()

    def _restore(self) -> None:
        while self.due:
            self._control("restore", self.due.pop(), None)

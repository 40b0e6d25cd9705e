"""Captures output, handles signals and prints messages while the plugin uses the main thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_plan.engine.model.text import printable, visible
from pytest_plan.plugin.compat.coverage_internals import measure_threads
from pytest_plan.plugin.compat.pytest_internals import catch_warnings, show_live_logs
from pytest_plan.plugin.main_thread.capture import StepOutput, current_step
from pytest_plan.plugin.main_thread.signals import Signals

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run


class Foreground:
    """Controls the main thread while the plugin's own code runs on it.

    Args:
        config: the config of this process.

    Attributes:
        output: the capture of the output of steps.
        signals: the signal handlers of this process.
        shown: a function that shortens names of instances in a text, as reports show them.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._runs: list[Run] = []  # the main thread changes it, its signal handlers read it
        self._masks: tuple[Callable[[str], str], ...] = ()
        self.shown: Callable[[str], str] = str
        self.output = StepOutput(config, self.mask)
        self.signals = Signals(self.interrupt)

    def watch(self, run: Run) -> None:
        """Stop this run on a signal and mask its secrets until the process ends."""
        self._runs.append(run)
        self._mask_secrets_of(run)

    @contextlib.contextmanager
    def owned(self, run: Run | None = None) -> Iterator[None]:
        """Capture output and warnings, and stop runs on a signal, while the plugin's own code runs.

        Args:
            run: a run to stop on a signal in addition to the watched runs; None means only those.
                Its secrets are masked until the process ends.
        """
        if run is not None:
            self._runs.append(run)
            self._mask_secrets_of(run)
        try:
            with (
                measure_threads(),
                self.signals.owned(),
                self.output,
                catch_warnings(self._config, self.mask),
                show_live_logs(self._config, self._heading, self.output.visible),
            ):
                yield
        finally:
            if run is not None:
                self._runs.remove(run)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Handle output and warnings of steps that run while this thread goes on with tests."""
        with (
            measure_threads(),
            self.output.behind(),
            catch_warnings(self._config, self.mask),
            show_live_logs(self._config, self._heading, self.output.visible),
        ):
            yield

    def _heading(self) -> str:
        step = current_step()
        return "plan" if step is None else self.mask(f"plan step {step!r}")

    def interrupt(self, reason: str) -> None:
        """Stop the running phases because of a signal; can be called from any signal handler."""
        for run in self._runs:
            run.interrupt(reason, may_leave=True)

    def mask(self, text: str) -> str:
        """Return `text` as it may be shown: known secrets are `***`, control characters escaped."""
        for mask in self._masks:
            text = mask(text)
        return self.shown(visible(text))

    def mask_message(self, error: BaseException) -> None:
        """Change the text of an exception that ends the session: pytest itself writes it."""
        error.args = tuple(self.mask(one) if isinstance(one, str) else one for one in error.args)
        if isinstance(error, pytest.exit.Exception):
            error.msg = self.mask(error.msg)

    def raise_fatal(self, error: BaseException) -> NoReturn:
        """Raise an exception of a step that ends the session, with secrets masked."""
        if not isinstance(error, SystemExit):
            self.mask_message(error)
            raise error
        # pytest would report a SystemExit outside a test as an INTERNALERROR.
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise pytest.exit.Exception(self.mask(f"a step raised {error!r}"), code) from error

    def _mask_secrets_of(self, run: Run) -> None:
        self._masks = (*self._masks, run.facts.masker.mask)

    @property
    def is_quiet(self) -> bool:
        """Whether the terminal shows only what is `bad` or is shown `always`: `-q`."""
        return self._config.get_verbosity() < 0

    def say(self, text: str, *, bad: bool = False, always: bool = False) -> None:
        """Write a line to the terminal, if there is one.

        Args:
            text: the line.
            bad: whether it is about a failure; it is red.
            always: whether to write it also with `-q`, as if it were bad.
        """
        if not self.is_quiet or bad or always:
            self.write_line(printable(f"plan: {self.mask(text)}"), red=bad)

    def write_line(self, line: str, *, red: bool = False) -> None:
        """Write a line as it is to the terminal, if there is one."""
        if self._config.pluginmanager.get_plugin("terminalreporter") is None:
            return
        writer = self._config.get_terminal_writer()
        with self.output.visible():
            if writer.width_of_current_line:
                writer.line()
            writer.line(line, red=red)
            writer.flush()

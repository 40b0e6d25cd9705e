"""The logs of the controller's steps, as a worker sees them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from pytest_plan.plugin.items.logs import Lines
from pytest_plan.plugin.xdist.client import Client


class RemoteLogs:
    """The logs of steps in a worker, which only the controller can mask.

    A worker that finds the private files, because it is on the same machine, asks the controller
    only when a test has failed.

    Args:
        client: the connection to the controller.
        sources: the private files of the logs that the controller has told of so far; None for a
            log to which nothing was written yet.
    """

    def __init__(self, client: Client, sources: dict[str, str | None]) -> None:
        self._client = client
        self._sources = sources

    def marks(self, names: Sequence[str]) -> dict[str, int]:
        """Return the marks of the ends of these logs, in the same order."""
        sources = self._sources
        try:
            return {
                name: 0 if (source := sources[name]) is None else os.stat(source).st_size
                for name in names
                if name in sources
            }
        except Exception:  # the worker is on another machine, or a test has replaced `os.stat`
            marks: dict[str, int] = self._client.ask("log_marks", [*names])
            return marks

    def since(self, marks: Mapping[str, int]) -> list[Lines]:
        """Return what these logs have gained since these marks, in the same order."""
        found = [Lines(*lines) for lines in self._client.ask("logs_since", dict(marks))]
        self._sources.update({lines.step: lines.source for lines in found})
        return found

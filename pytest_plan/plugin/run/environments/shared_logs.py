"""The logs of steps in a shared environment: the owner publishes the end of each of them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_plan.engine.model.clock import Flag
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Kind, Row

if TYPE_CHECKING:
    from pytest_plan.engine.execution.step_run import StepRun
    from pytest_plan.plugin.run.environments.sharing.link import Link

MOST = 64 * 1024  # bytes of each log that are published
_EVERY = 1.0  # seconds between two looks at the logs
_PATIENCE = 5.0  # seconds that the end of the run waits for the thread


class PublishedLog(NamedTuple):
    """The end of the log of a step.

    Attributes:
        size: how many bytes the whole log has.
        text: its last lines, with secrets masked.
    """

    size: int
    text: str

    def since(self, mark: int) -> tuple[str, int]:
        """Return what the log has gained since it had `mark` bytes, and how many bytes are missing.

        A log that is shorter now was written again: all of it is new.
        """
        data = self.text.encode("utf-8", "surrogateescape")
        gained = self.size - mark if self.size >= mark else self.size
        shown = data[max(0, len(data) - gained) :]
        return shown.decode("utf-8", "replace"), gained - len(shown)


def logs_in(rows: Iterable[Row]) -> Iterator[tuple[str, PublishedLog]]:
    """Yield the names of steps and their logs, from rows of the store."""
    for row in rows:
        size, text = json.loads(row.text)
        yield row.key, PublishedLog(int(size), str(text))


class LogPublisher:
    """Publishes the logs of the steps that the owner runs, each when it has changed.

    Args:
        link: the part of the owner in the environment.
        steps: a function that returns all steps of its run.
    """

    def __init__(self, link: Link, steps: Callable[[], Mapping[str, StepRun]]) -> None:
        self._link = link
        self._steps = steps
        self._publishing = threading.Lock()  # guards the attribute below, and keeps rows in order
        self._seen: dict[str, tuple[int, int]] = {}  # size and time of the last publication
        self._is_over = Flag()
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="plan-share-logs", daemon=True)

    def begin(self) -> None:
        """Publish from now on. Without a thread, the logs are published at the end."""
        with contextlib.suppress(RuntimeError):
            self._thread.start()

    def end(self) -> None:
        """Publish for the last time. A second call does nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)
        self.publish()

    def publish(self) -> None:
        """Publish what has changed, so that it can be read when this returns."""
        with self._publishing:
            self._publish()

    def _run(self) -> None:
        while not self._is_over.wait(_EVERY):
            with contextlib.suppress(Exception):  # a test may have replaced a function of `os`
                self.publish()

    def _publish(self) -> None:
        if self._link.trouble is not None:
            return
        logs = [(one.name, one.log.existing) for one in _shared(self._steps())]
        rows = [row for name, path in logs if path is not None for row in self._changed(name, path)]
        if rows:
            # Whatever is wrong with the server, the thread of the link notices.
            with contextlib.suppress(ShareError):
                self._link.store.publish(self._link.access, rows)

    def _changed(self, step: str, path: Path) -> Iterator[Row]:
        """Yield the row with the log of a step if it has changed."""
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                now = (found.st_size, found.st_mtime_ns)
                if self._seen.get(step) == now:
                    return
                file.seek(max(0, found.st_size - MOST))
                data = file.read(MOST)
        except OSError:
            return
        self._seen[step] = now
        if found.st_size > MOST:
            data = data[data.find(b"\n", 0, -1) + 1 :]  # the rest of a line
        text = data.decode("utf-8", "surrogateescape")
        yield Row(Kind.LOG, step, json.dumps(PublishedLog(found.st_size, text)))


def _shared(steps: Mapping[str, StepRun]) -> list[StepRun]:
    return [one for one in list(steps.values()) if one.planned.worker is None]

"""Copies what a container writes to the log of its step, while it runs."""

from __future__ import annotations

import codecs
import contextlib
import functools
import threading
from collections.abc import Iterable
from typing import Any

from pytest_plan.engine.shared.log import StepLog
from pytest_plan.steps.containers.engines.engine import Engine, closing, docker_library, open_engine

_CHUNK = 64 * 1024  # bytes of a line without its end that are written at once


class Follower:
    """Copies the output of one container to the log of its step, on a thread of its own.

    Args:
        log: the log.
        engine: the engine that runs the container.
        container: the id of the container.
        service: the name of its service in a compose file, which each line shows; "" if it is not
            from one.
        is_new: whether to leave out what the container has written before.
    """

    def __init__(
        self,
        log: StepLog,
        engine: Engine,
        container: str,
        service: str = "",
        *,
        is_new: bool = False,
    ) -> None:
        self._log = log
        self._open = functools.partial(open_engine, engine.address, None)
        self._container = container
        self._prefix = f"{service} | " if service else ""
        self._is_new = is_new
        name = f"plan-{log.step}-container"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Without a thread, the log of the step lacks these lines.
        with contextlib.suppress(RuntimeError):
            self._thread.start()

    def finish(self, seconds: float) -> None:
        """Wait for the last lines of a container that has ended, for at most `seconds`."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        # The engine may end at any time, and so may the run, which then takes no more lines.
        with contextlib.suppress(Exception), closing(self._open()) as engine:
            self._copy(
                engine.client.api.logs(
                    self._container, stream=True, follow=True, tail=0 if self._is_new else "all"
                )
            )

    def _copy(self, chunks: Iterable[bytes]) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        for chunk in chunks:
            *lines, rest = (rest + decoder.decode(chunk)).split("\n")
            if len(rest) > _CHUNK:
                lines, rest = [*lines, rest], ""
            self._write(lines)
        self._write([rest] if rest else [])

    def _write(self, lines: list[str]) -> None:
        if lines:
            self._log.write("".join(f"{self._prefix}{line.rstrip(chr(13))}\n" for line in lines))


def last_lines(container: Any, count: int = 10) -> str:
    """Return the last lines that a container has written; "" if it has written nothing."""
    with contextlib.suppress(docker_library().errors.APIError, OSError):
        return str(container.logs(tail=count).decode("utf-8", "replace").rstrip())
    return ""

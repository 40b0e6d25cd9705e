"""Gets the image of a container, if it is not on this machine yet."""

from __future__ import annotations

import functools
import threading
from typing import Any

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.steps.containers.engines.engine import (
    Engine,
    closing,
    docker_library,
    explained,
    open_engine,
    reason,
)

_EVERY = 5.0  # seconds between two lines about the progress of a pull
_LOOK = 0.1  # seconds between two looks at a pull
_MEGABYTE = 1_000_000


def require_image(ctx: Context, engine: Engine, image: str, timeout: float) -> None:
    """Pull an image that is not on the engine's machine; the step's log shows the progress.

    Args:
        ctx: the context of the step.
        engine: the engine.
        image: the name of the image.
        timeout: the seconds that a pull may take.

    Raises:
        RuntimeError: the image can neither be found nor pulled.
        TimeoutError: the pull took longer than `timeout`.
        PlanError: the hook must stop.
    """
    with explained(f"cannot look for image {image!r}"):
        try:
            engine.client.images.get(image)
        except docker_library().errors.ImageNotFound:
            pass
        else:
            return
    ctx.log(f"pulling image {image!r}, which is not on this machine")
    begun = SystemClock.now()
    pull = _Pull(engine, image, timeout)
    try:
        _follow(ctx, pull, timeout)
    finally:
        pull.is_over = True
    ctx.log(f"pulled image {image!r} in {format_duration(SystemClock.now() - begun)}")


def _follow(ctx: Context, pull: _Pull, timeout: float) -> None:
    """Wait for the end of a pull."""
    now = SystemClock.now()
    expires, next_line = now + timeout, now + _EVERY
    while not pull.has_ended():
        ctx.sleep(_LOOK)
        now = SystemClock.now()
        if now >= expires:
            raise TimeoutError(
                f"image {pull.image!r} was not pulled within {format_duration(timeout)} "
                f"({pull.progress}): pull it before the run, or give the step a longer pull_timeout"
            )
        if now >= next_line:
            next_line = now + _EVERY
            ctx.log(f"pulling image {pull.image!r}: {pull.progress}")
    if pull.error:
        raise RuntimeError(
            f"image {pull.image!r} is not on this machine and cannot be pulled: {pull.error}; "
            f"check its name and the access to its registry, or build it: "
            f"docker build -t {pull.image} ."
        )


class _Pull:
    """One pull, on a thread of its own, because an engine may be silent for minutes.

    Attributes:
        image: the name of the image.
        progress: how far the pull is.
        error: why the image cannot be pulled; "" while nothing has failed.
        is_over: set this to let the engine stop.
    """

    def __init__(self, engine: Engine, image: str, timeout: float) -> None:
        self.image = image
        self.progress = "the registry has not answered"
        self.error = ""
        self.is_over = False
        self._open = functools.partial(open_engine, engine.address, None)
        self._timeout = timeout
        self._layers: dict[str, tuple[float, float]] = {}
        self._thread = threading.Thread(target=self._run, name="plan-pull", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system refuses a thread
            self._run()

    def has_ended(self) -> bool:
        """Return whether nothing more is to come."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with explained("the pull has failed"):
                self._pull()
        except Exception as error:
            self.error = self.error or str(error)

    def _pull(self) -> None:
        docker = docker_library()
        with closing(self._open()) as engine:
            api = engine.client.api
            api.timeout = self._timeout
            repository, tag = docker.utils.parse_repository_tag(self.image)
            try:
                for line in api.pull(repository, tag or "latest", stream=True, decode=True):
                    self._note(line)
                    if self.is_over or self.error:
                        return
            except docker.errors.APIError as error:
                self.error = reason(error)

    def _note(self, line: dict[str, Any]) -> None:
        if line.get("error"):
            self.error = " ".join(str(line["error"]).split())
            return
        detail, layer = line.get("progressDetail") or {}, line.get("id")
        if not layer:
            return
        have, size = self._layers.get(layer, (0.0, 0.0))
        if line.get("status") == "Downloading":
            have, size = detail.get("current") or have, detail.get("total") or size
        elif line.get("status") in ("Download complete", "Pull complete", "Already exists"):
            have = size
        self._layers[layer] = (have, size)
        got, total = (
            sum(column) / _MEGABYTE for column in zip(*self._layers.values(), strict=True)
        )
        self.progress = f"{got:.1f} of {total:.1f} MB"

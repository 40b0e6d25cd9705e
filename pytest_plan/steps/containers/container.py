"""Runs a container in a step."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike

from pytest_plan.engine.calls.context import Context, starter_of
from pytest_plan.engine.model.durations import Duration, parse_duration
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.processes.addresses import first_address
from pytest_plan.engine.processes.listeners import listening_on, strangers_at
from pytest_plan.engine.shared.programs.readiness import Ready, condition_of
from pytest_plan.steps.attach import attach as use
from pytest_plan.steps.attach import attached
from pytest_plan.steps.containers.arguments import Arguments, arguments
from pytest_plan.steps.containers.engines.engine import (
    TAKEN,
    Engine,
    closing,
    connect,
    explained,
    remove,
    remove_labelled,
)
from pytest_plan.steps.containers.engines.keeping import keep
from pytest_plan.steps.containers.engines.logs import Follower
from pytest_plan.steps.containers.engines.mark import IMAGE, Mark
from pytest_plan.steps.containers.engines.pull import require_image
from pytest_plan.steps.containers.ready import Usable, wait_for_containers
from pytest_plan.steps.containers.target import ContainerTarget
from pytest_plan.steps.containers.value import Container, value_of


def container(
    ctx: Context,
    image: str,
    *,
    command: Sequence[str] | None = None,
    ports: Sequence[int | str] = (),
    env: Mapping[str, str | int | Secret[str]] | None = None,
    volumes: Mapping[str | PathLike[str], str] | None = None,
    ready: Ready | None = None,
    timeout: Duration | None = None,
    pull_timeout: Duration = "10m",
    attach: str | None = None,
) -> Container:
    """Run a container until cleanup, and return once it is ready.

    The engine is the one at `DOCKER_HOST`, or else the first that answers at the usual sockets of
    Docker and podman. Cleanup removes the container with its volumes, also after pytest was killed.
    What the container writes goes to the step's log.

    Args:
        ctx: the `ctx` of the hook.
        image: the name of the image, which is pulled if it is not on this machine.
        command: the arguments that replace those of the image; None keeps those.
        ports: the ports of the container to publish on `ctx.host`: `5432` on a free port,
            `"8080:80"` on port 8080, `"53/udp"` for UDP.
        env: environment variables of the container.
        volumes: folders or files of this machine, and their places in the container: an absolute
            path that may end in `:ro`.
        ready: the condition for the container to be ready. None means that its health check
            passes, or without a health check, that all its published TCP ports accept connections.
        timeout: the maximum time from the start of the container until it is ready; None means
            until the deadline of the step.
        pull_timeout: the maximum time for pulling the image.
        attach: the name of an environment variable. If it has a value, this is the URL of a server
            to use instead; no container is started, and `id` is empty.

    Raises:
        RuntimeError: no engine answers, the image cannot be pulled, the container cannot be
            started, or it has ended before it was ready.
        TimeoutError: the image was not pulled, or the container was not ready, in time.
        PlanDefinitionError: an argument is invalid; nothing was started.
        PlanError: the hook must stop; see `Context.check`.
    """
    given = arguments(image, command, ports, env, volumes)
    condition = Usable() if ready is None else condition_of(ready)
    longest = None if timeout is None else parse_duration(timeout, "container: timeout", zero=False)
    patience = parse_duration(pull_timeout, "container: pull_timeout", zero=False)
    if (server := attached(attach)) is not None:
        first = [port.inner for port in given.ports][:1]
        server.ports = dict.fromkeys(first or [server.port], server.port)
        value = Container("", server.host, server.port, server.ports, server.url)
        server.value = value
        use(ctx, server, None if ready is None else condition, longest)
        return value
    with closing(connect(ctx)) as engine:
        require_image(ctx, engine, given.image, patience)
        mark = Mark(ctx)
        ctx.defer(remove, engine.address, mark.label)
        target = _start(ctx, engine, given, mark)
        wait_for_containers(ctx, [(target, condition)], longest, "container")
        keep(ctx, engine, [("", target.attrs)])
    return target.value


def _start(ctx: Context, engine: Engine, given: Arguments, mark: Mark) -> ContainerTarget:
    # Engines publish on IP addresses only.
    address = first_address(ctx.host)[1] if engine.is_local else "0.0.0.0"  # noqa: S104
    with _explained(given):
        created = engine.client.containers.create(
            given.image,
            given.command,
            name=mark.name,
            labels={**mark.labels, IMAGE: given.image},
            environment=given.env,
            volumes=given.volumes,
            ports={port.key: (address, port.outer) for port in given.ports},
        )
    try:
        ctx.check()
    except BaseException:
        remove_labelled(engine, mark.label)  # the step may have been cleaned up
        raise
    with _explained(given):
        created.start()
        created.reload()
    ctx.log(f"started container {given.image!r} as {mark.name}")
    value = value_of(engine.host, created.attrs, [port.inner for port in given.ports])
    return ContainerTarget(
        engine, created, value, Follower(starter_of(ctx).care().log, engine, created.id)
    )


@contextlib.contextmanager
def _explained(given: Arguments) -> Iterator[None]:
    """Name the cause and the cure if the engine refuses to create or start a container."""
    what = f"container {given.image!r} cannot be started"
    try:
        with explained(what):
            yield
    except RuntimeError as error:
        if (port := _taken_port(given, str(error))) is None:
            raise
        listeners = strangers_at(listening_on([port]), lambda pid: False)
        who = str(next(iter(listeners), f"something already listens on port {port}"))
        inner = next(one.inner for one in given.ports if one.outer == port)
        cure = f"stop it, or let the engine choose a port: ports=[{inner}]"
        raise RuntimeError(f"{what}: {who}; {cure}") from None


def _taken_port(given: Arguments, text: str) -> int | None:
    """Return the port that is taken, according to the engine's error."""
    if not re.search(TAKEN, text):
        return None
    ports = [port.outer for port in given.ports if port.outer is not None]
    return next((port for port in ports if re.search(rf":{port}\b", text)), None)

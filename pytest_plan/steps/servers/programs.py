"""Finds the programs of servers: in a given folder, in PATH, in Debian's folders, in packages."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import NamedTuple

_LONGEST = 20.0  # seconds that a program may take to print its version
_OTHER_USER = "nobody"


class Program(NamedTuple):
    """A program that is installed.

    Attributes:
        path: its path, without symbolic links.
        version: its version; "" if it is unknown.
        origin: where it was found, for messages.
    """

    path: Path
    version: str
    origin: str

    def __str__(self) -> str:
        return f"{self.version} ({self.origin})" if self.version else self.origin


class Kind(NamedTuple):
    """A kind of server, and where its program can be.

    Attributes:
        title: the name of the server.
        program: the name of its program.
        install: how to install it.
        folders: folders outside of PATH, as globs.
        packages: packages of PyPI, with globs for the folders of the program in them.
        needs: other programs that must be in the same folder.
        asks: the arguments with which the program prints its version; none if it cannot.
    """

    title: str
    program: str
    install: str
    folders: Sequence[str] = ()
    packages: Mapping[str, str] = {}
    needs: Sequence[str] = ()
    asks: Sequence[str] = ("--version",)


def find_program(
    kind: Kind, given: str | os.PathLike[str] | None = None, version: str | None = None
) -> Program:
    """Return the program of a server.

    Args:
        kind: the kind of the server.
        given: the folder with the program, or the program itself; None means the first one found
            in PATH, in the usual folders, and in packages.
        version: the version, or its first numbers; None means any.

    Raises:
        FileNotFoundError: there is none; the message lists those found, and how to install one.
    """
    found = []
    for path, origin in _candidates(kind, given):
        number = _version_of(str(path), kind.asks)
        program = Program(path, number or "", origin)
        if not kind.asks or (number is not None and _matches(number, version)):
            return program
        found.append(program)
    wanted = kind.title + (f" {version}" if version else "")
    if given is not None and not found:
        raise FileNotFoundError(
            f"no {wanted}: bin is {os.fspath(given)!r}, where there is no program {kind.program!r}"
            + "".join(f" with {name!r} beside it" for name in kind.needs)
        )
    cure = f"install it ({kind.install}), or set bin to the folder with {kind.program!r}"
    here = "found " + ", ".join(map(str, found)) if found else "found none"
    raise FileNotFoundError(f"no {wanted} is installed: {here}; {cure}")


def other_user(program: Program) -> str | None:
    """Return the user for a server that cannot or should not run as root.

    Returns:
        None if this process does not run as root.

    Raises:
        PermissionError: that user cannot enter the folder of the program.
    """
    if os.geteuid() != 0:
        return None
    for folder in reversed(program.path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            raise PermissionError(
                f"{program.path.name!r} must run as user {_OTHER_USER!r}, who cannot enter "
                f"{folder}: run the tests as another user than root, or install it elsewhere"
            )
    return _OTHER_USER


def private_folder(path: Path, user: str | None) -> Path:
    """Create a folder that belongs to `user` and that no other user may enter; return it."""
    path.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(path, user)
    return path


def private_file(path: Path, text: str, user: str | None) -> Path:
    """Write a file that belongs to `user` and that no other user may read; return it."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    if user is not None:
        shutil.chown(path, user)
    return path


def _candidates(kind: Kind, given: str | os.PathLike[str] | None) -> Iterator[tuple[Path, str]]:
    """Yield the programs that exist, each once, and where they were found."""
    seen: set[Path] = set()
    for path, origin in _places(kind) if given is None else _given(kind, given):
        whole = Path(os.path.realpath(path))
        if _is_program(named := whole.with_name(kind.program)):
            whole = named  # Debian has a wrapper for RabbitMQ in PATH
        programs = [whole, *(whole.with_name(name) for name in kind.needs)]
        if whole not in seen and all(map(_is_program, programs)):
            seen.add(whole)
            yield whole, origin


def _given(kind: Kind, given: str | os.PathLike[str]) -> Iterator[tuple[Path, str]]:
    path = Path(given).expanduser()
    program = path / kind.program if os.path.isdir(path) else path
    yield program, f"bin: {given}"


def _places(kind: Kind) -> Iterator[tuple[Path, str]]:
    from importlib import metadata

    for folder in os.get_exec_path():
        path = Path(folder, kind.program)
        yield path, f"PATH: {path}"
    for pattern in kind.folders:
        for folder in sorted(glob(pattern), key=_numbers, reverse=True):
            yield Path(folder, kind.program), folder
    for package, pattern in kind.packages.items():
        try:
            root = str(metadata.distribution(package).locate_file(""))
        except metadata.PackageNotFoundError:
            continue
        for folder in sorted(glob(os.path.join(root, pattern)), key=_numbers, reverse=True):
            yield Path(folder, kind.program), f"PyPI: {package}"


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _is_program(path: Path) -> bool:
    # `Path.is_file` raises PermissionError if a folder cannot be entered.
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _version_of(path: str, asks: Sequence[str]) -> str | None:
    """Return the version that a program prints; None if it prints none."""
    if not asks:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a program that the user has installed
            [path, *asks], capture_output=True, text=True, timeout=_LONGEST, check=False,
            stdin=subprocess.DEVNULL, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+(\.\d+)*", done.stdout)
    return found[0] if found else None


def _matches(number: str, version: str | None) -> bool:
    return version is None or f"{number}.".startswith(f"{version}.")

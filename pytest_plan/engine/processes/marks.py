"""The marks by which the processes of a tree are recognized.

Every tree has a random cookie, in the environment of its programs. On Linux it also has a random
number, which is set as the limit on file locks (RLIMIT_LOCKS) between fork and exec. The kernel no
longer enforces this limit, but every descendant inherits it, even one that leaves the session,
overwrites its environment and changes its user, and `/proc/PID/limits` shows it to every user.
"""

# Annotations are not postponed: a NamedTuple would compile each of them, in the reaper's program.
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_plan.engine.processes.identity import read_proc

COOKIE = "PYTEST_PLAN_COOKIE"  # the environment variable that holds the cookie
RLIMIT_LOCKS = 10  # the module `resource` has no name for it

_IS_LINUX: bool = sys.platform == "linux"
_HIGHEST = 2**62 if sys.maxsize > 2**32 else 2**30  # the highest number if there is no limit
_LOWEST = 2**24  # below this limit, a random number could be one that somebody else has set
_ROW = b"Max file locks"


class Marks(NamedTuple):
    """The marks of a process tree.

    Attributes:
        cookie: the value of `COOKIE` in the environment of its programs.
        number: the limit on file locks of its processes; None if it cannot be set.
    """

    cookie: str
    number: int | None = None

    def are_on(self, pid: int) -> bool:
        """Return whether a process carries one of the marks."""
        if self.number is not None and _limit_of(pid) == self.number:
            return True
        return _cookie_of(pid) == self.cookie


def new_marks() -> Marks:
    """Return random marks for a new tree."""
    import secrets  # the reaper's program makes no marks

    return Marks(secrets.token_hex(16), _new_number())


def _new_number() -> int | None:
    if sys.platform != "linux":
        return None
    import resource
    import secrets

    try:
        own = resource.getrlimit(RLIMIT_LOCKS)
        resource.setrlimit(RLIMIT_LOCKS, own)  # a sandbox may forbid this call
    except (OSError, ValueError):
        return None
    top = _HIGHEST if own[1] == resource.RLIM_INFINITY else min(own[1], _HIGHEST)
    return top // 2 + secrets.randbelow(top // 2) if top >= _LOWEST else None


class Marking(NamedTuple):
    """How to start a program with a certain limit on file locks.

    Attributes:
        prefix: the arguments to insert before those of the program.
        before_exec: the function to call between fork and exec; None means none.
    """

    prefix: tuple[str, ...] = ()
    before_exec: Callable[[], object] | None = None


def marking(
    number: int | None,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None,
    *,
    as_other_user: bool,
) -> Marking:
    """Return how to start a program so that it has `number` as its limit on file locks.

    The program `prlimit` sets the limit if it is certain that it can execute the program. If it is
    not, a function sets it, because then `subprocess` reports exactly why the program cannot be
    executed. That function is a single C call: other threads may hold locks during the fork.

    Args:
        number: the limit; None means that none is set.
        argv: the program and its arguments.
        env: the environment variables of the program.
        cwd: its working directory; None means that of this process.
        as_other_user: whether it runs as another user or group.
    """
    if number is None:
        return Marking()
    import shutil

    prlimit = shutil.which("prlimit", path=os.defpath)
    # A library that the program loads first may not fit `prlimit`.
    is_plain = not as_other_user and not any(name.startswith("LD_") for name in env)
    if prlimit is not None and is_plain and _can_execute(argv[0], env, cwd):
        return Marking((prlimit, f"--locks={number}:{number}", "--"))
    import resource

    return Marking((), functools.partial(resource.setrlimit, RLIMIT_LOCKS, (number, number)))


def _can_execute(program: str, env: Mapping[str, str], cwd: str | os.PathLike[str] | None) -> bool:
    folders = [""] if os.sep in program else os.get_exec_path(env)
    for folder in folders:
        file = Path(cwd or "", folder, program)
        if os.path.exists(file):
            return file.is_file() and os.access(file, os.X_OK) and _has_interpreter(file)
    return False


def _has_interpreter(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            start = opened.read(256)
    except OSError:
        return False
    if start.startswith(b"\x7fELF"):
        return True
    words = start.partition(b"\n")[0].removeprefix(b"#!").split()
    return start.startswith(b"#!") and bool(words) and os.access(words[0], os.X_OK)


def _limit_of(pid: int) -> int | None:
    try:
        content = read_proc(pid, "limits")
    except OSError:
        return None
    values = content.partition(_ROW)[2].split(maxsplit=2)
    return int(values[1]) if len(values) > 1 and values[1].isdigit() else None


def _cookie_of(pid: int) -> str | None:
    if _IS_LINUX:
        try:
            variables = b"\0" + read_proc(pid, "environ")
        except OSError:
            return None
        _, found, rest = variables.partition(f"\0{COOKIE}=".encode())
        return os.fsdecode(rest.partition(b"\0")[0]) if found else None
    import psutil

    try:
        return psutil.Process(pid).environ().get(COOKIE)
    except (psutil.Error, OSError):
        return None

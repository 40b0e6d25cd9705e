"""Makes the system refuse new threads: a thread's stack is larger than the memory limit allows."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_limit = pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
_STACK, _REST = 1 << 30, 512 << 20  # bytes


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """Let no new thread start in this process; running threads continue."""
    usual = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    size = threading.stack_size(_STACK)
    resource.setrlimit(resource.RLIMIT_AS, (used + _REST, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, usual)
        threading.stack_size(size)

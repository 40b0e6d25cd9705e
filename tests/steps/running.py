"""Runs one step that uses a ready-made step, in a plan of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.results import PlanResult, StepError
from pytest_plan.engine.plan import Plan

LONGEST = 20.0  # real seconds until a test that waits gives up
Exec = Callable[[Context], Any]

# Serves HTTP on the port in its first argument. Until it has been asked as often as its second
# argument says, it answers 503.
SERVER = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    left = int(sys.argv[2]) if len(sys.argv) > 2 else 0

    def do_GET(self):
        status = 503 if Handler.left else 200
        Handler.left = max(0, Handler.left - 1)
        self.send_response(status if self.path != "/away" else 302)
        self.end_headers()

    def log_message(self, *args):
        print("asked", self.path, flush=True)

server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
"""
SERVE = [sys.executable, "-c", SERVER]


def run(exec: Exec, during: Callable[[Any], Any] = lambda value: value, **options: Any) -> Any:
    """Run one step, and return what `during` returns for its value while it is provisioned."""
    plan = Plan()
    plan.add_step(GenericStep(exec=exec), name="it", **options)
    with plan.provisioned() as state:
        return during(state.get("it"))


def cause_of(exec: Exec, **options: Any) -> BaseException:
    """Run one step that fails, and return the exception of its hook."""
    with pytest.raises(StepError) as caught:
        run(exec, **options)
    return caught.value.__cause__ or caught.value


def log_of(exec: Exec, **options: Any) -> str:
    """Run one step that fails, and return the end of its log."""
    with pytest.raises(StepError) as caught:
        run(exec, **options)
    result = caught.value.result
    assert isinstance(result, PlanResult)
    return result.steps["it"].log_tail

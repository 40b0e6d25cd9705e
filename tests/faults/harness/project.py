"""The project into which faults are injected: three steps, five tests, and all their moments."""

from __future__ import annotations

CONFTEST = """\
import json
import os
import pytest
from tests.faults.harness.fakes import Fake, at, note, watch_exit

watch_exit()

def pytest_plan_configure(plan):
    options = json.loads(os.environ["FAULTS_OPTIONS"])
    for name in ("net", "db", "web"):
        plan.add_step(Fake(), name=name, **options.get(name, {}))

def pytest_sessionstart():
    at("start")

def pytest_sessionfinish():
    at("finish")

def pytest_runtest_protocol():
    at("protocol")

def pytest_runtest_logreport():
    at("report")

@pytest.fixture(scope="session")
def everything(web):
    note("up", "session")
    yield
    note("down", "session")
"""
TESTS = """\
import pytest
from tests.faults.harness.fakes import at, note

at("collecting")

@pytest.fixture
def thing(everything):
    note("up", "thing")
    at("test.setup")
    yield
    at("test.teardown")
    note("down", "thing")

def test_one(thing):
    at("test.call")

@pytest.mark.parametrize("number", range(4))
def test_other(everything, number):
    note("test", number)
    at(f"other.{number}")
"""

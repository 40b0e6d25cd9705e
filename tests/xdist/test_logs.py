"""pytest's options for log records apply to steps, with and without workers."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.xdist.cluster import Cluster, outcomes

STEPS = """
import logging

log = logging.getLogger("provider")

@pytest.mark.plan_step(eager={eager}, needs=())
def db():
    log.debug("looking for db")
    log.info("creating db")
    {code}
    yield "db"
    log.info("removing db")
"""
TEST = """
import logging

def test_it(db, caplog):
    logging.getLogger("test").warning("testing %s", db)
    assert caplog.messages == ["testing db"]
"""
SOLO_AND_TWO = pytest.mark.parametrize("workers", ["0", "2"])
EAGER_OR_NOT = pytest.mark.parametrize("eager", [False, True])


@SOLO_AND_TWO
@EAGER_OR_NOT
def test_level(cluster: Cluster, eager: bool, workers: str) -> None:
    """A failed step shows the records of the level that the user asks for."""
    cluster.steps(STEPS.format(eager=eager, code="raise OSError('no db')"))
    cluster.tests(TEST)
    said = cluster.apart("-n", workers, "--log-level=INFO").stdout.str()
    shown = re.findall(r"^INFO +provider: (\w+) db$", said, re.MULTILINE)
    assert shown == ["creating"]
    assert "DEBUG" not in said
    said = cluster.apart("-n", workers).stdout.str()
    assert "provider:" not in said


def test_level_differs_from_that_of_live_records(cluster: Cluster) -> None:
    """`--log-level` decides what a failed step shows, whatever the level of live records is."""
    cluster.steps(STEPS.format(eager=False, code="raise OSError('no db')"))
    cluster.tests(TEST)
    said = cluster.apart("--log-level=INFO", "--log-cli-level=ERROR").stdout.str()
    assert "provider: creating db" in said


def test_format(cluster: Cluster) -> None:
    """A format that the user sets applies to the log of a step."""
    cluster.steps(STEPS.format(eager=False, code="raise OSError('no db')"))
    cluster.tests(TEST)
    result = cluster.apart("--log-level=INFO", "--log-format=%(message)s at %(name)s")
    result.stdout.fnmatch_lines(["creating db at provider"])


@SOLO_AND_TWO
@EAGER_OR_NOT
def test_live_records(cluster: Cluster, eager: bool, workers: str) -> None:
    """With `log_cli`, a record is on the terminal before its step ends, with level and file."""
    cluster.steps(STEPS.format(eager=eager, code=""))
    cluster.tests(TEST)
    result = cluster.apart("-n", workers, "-o", "log_cli=true", "--log-cli-level=INFO")
    assert outcomes(result) == {"passed": 1}
    result.stdout.fnmatch_lines(
        [
            "*- live log plan step 'db' -*",
            "INFO     provider:conftest.py:* creating db",
            "plan: db *ok *",
            "*PASSED*",
            "*- live log plan step 'db' -*",
            "INFO     provider:conftest.py:* removing db",
            "plan: db *cleanup ok *",
        ]
    )


@SOLO_AND_TWO
@EAGER_OR_NOT
def test_file(cluster: Cluster, eager: bool, workers: str) -> None:
    """`log_file` has the records of steps, tests and cleanup, and none of an earlier run."""
    cluster.write("all.log", "INFO earlier: removing db\n")
    cluster.steps(STEPS.format(eager=eager, code=""))
    cluster.tests(TEST)
    options = ["--log-file=all.log", "--log-file-level=INFO"]
    cluster.apart("-n", workers, *options)
    lines = re.findall(r"^(\w+) .* (\w+) db$", (cluster.path / "all.log").read_text(), re.MULTILINE)
    assert lines == [("INFO", "creating"), ("WARNING", "testing"), ("INFO", "removing")]


def test_without_logging(cluster: Cluster) -> None:
    """With `-p no:logging`, the log of a failed step still has its records."""
    cluster.steps(STEPS.format(eager=False, code="log.error('stuck'); raise OSError('no db')"))
    cluster.tests("def test_it(db): pass")
    result = cluster.apart("-p", "no:logging")
    result.stdout.fnmatch_lines(["ERROR * provider: stuck"])


def test_live_records_of_parallel_steps(cluster: Cluster) -> None:
    """Live records are whole lines below the name of their step; prints are in its log alone."""
    cluster.steps(
        """
        import logging

        log = logging.getLogger("provider")

        def step(name):
            def talks():
                for number in range(50):
                    log.info("%s %d", name, number)
                    print(name, "prints", number)

            talks.__name__ = name
            return pytest.mark.plan_step(needs=())(talks)

        for name in ["one", "two", "three", "four"]:
            globals()[name] = step(name)
        """
    )
    cluster.tests("@pytest.mark.plan\ndef test_it(): pass")
    said = cluster.apart("-o", "log_cli=true", "--log-cli-level=INFO").stdout.str()
    expected = r"live log plan step '(\w+)' -|^INFO +provider:conftest.py:\d+ (\w+) \d+$"
    found, heading = Counter[str](), ""
    for match in re.finditer(expected, said, re.MULTILINE):
        heading = match[1] or heading
        assert match[2] in (None, heading)
        found[heading] += match[2] is not None
    assert found == dict.fromkeys(["one", "two", "three", "four"], 50)
    assert "prints" not in said
    for log in cluster.path.glob(".pytest_plan/artifacts/*/*/log.txt"):
        printed = [line for line in log.read_text().splitlines() if "prints" in line]
        assert printed == [f"{log.parent.name} prints {number}" for number in range(50)]

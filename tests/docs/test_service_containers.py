"""The page about service containers: with its variables, the steps use the servers of CI."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_plan import Plan
from pytest_plan.steps import PostgreSQL, Redis
from tests.docs.pages import blocks, examples
from tests.docs.test_pages import LIBRARIES
from tests.plugin.project import Project
from tests.xdist.cluster import outcomes

PAGE = "how-to/use-service-containers-of-ci"
# The steps use the servers that the variables name.
SAME = """
import os

def test_servers(postgres, redis):
    assert postgres == os.environ["DATABASE_URL"]
    assert redis == os.environ["REDIS_URL"]
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_servers_that_are_there_are_used(
    project: Project, own_temporary_folder: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    """The tests pass, all workers use the same servers, and the database is removed from them."""
    for name in filter(None, LIBRARIES[PAGE]):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import psycopg

    for name, text in examples(PAGE).items():
        project.write(name, text)
    project.write("test_servers.py", SAME)
    plan = Plan()
    plan.add_step(PostgreSQL(), name="postgres", needs=())
    plan.add_step(Redis(), name="redis", needs=())
    with plan.provisioned() as state:
        monkeypatch.setenv("DATABASE_URL", state["postgres"])
        monkeypatch.setenv("REDIS_URL", state["redis"])
        result = project.run_apart("-p", "xdist", "-n", workers)
        assert outcomes(result) == {"passed": 3}
        assert result.ret == 0
        with psycopg.connect(state["postgres"]) as connection:
            names = connection.execute("SELECT datname FROM pg_database").fetchall()
    assert ("postgres",) in names
    assert ("shop",) not in names


def test_each_file_for_ci_sets_the_variables() -> None:
    """Both files set the variables that the steps read."""
    variables = re.findall(r'attach = "(\w+)"', examples(PAGE)["conftest.py"])
    files = [block.text for block in blocks(PAGE) if block.language == "yaml"]
    assert len(variables) == len(files) == 2
    for file in files:
        for variable in variables:
            assert re.search(rf"^ +{variable}: \w+://", file, re.MULTILINE)

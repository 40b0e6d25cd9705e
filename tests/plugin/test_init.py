"""`--plan-init`: what it writes, where, and that it changes nothing that exists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.project import Project, refuses

WRITTEN = ("conftest.py", "test_plan_example.py")
# What ruff has in every rule set that applies to tests which anybody may write.
RUFF = ("--isolated", "--select", "ALL", "--ignore", "COM812,CPY001,D203,D213,INP001,S101")


def begin(project: Project, *args: str) -> pytest.RunResult:
    """Run `--plan-init`, which must succeed."""
    result = project.run("--plan-init", *args)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    return result


def files(project: Project) -> set[str]:
    """Return the files of the project that are not ours."""
    found = (path for path in project.path.rglob("*") if path.is_file() or path.is_symlink())
    names = {str(path.relative_to(project.path)) for path in found}
    return {name for name in names if not name.startswith(("calls.py", "__pycache__"))}


def test_the_example_works_at_once(project: Project, pytestconfig: pytest.Config) -> None:
    """It passes with two workers, its plan is what the output says, and checkers accept it."""
    result = begin(project, "-n2", "-p", "xdist")
    result.stdout.fnmatch_lines(
        [
            "plan: created conftest.py with the steps example_server and example_page",
            "plan: created test_plan_example.py with two tests that need them",
            "plan: to see the plan:  pytest -p pytest_plan -p xdist test_plan_example.py*-show",
            "plan: to run the tests: pytest -p pytest_plan -p xdist test_plan_example.py",
        ]
    )
    assert files(project) == set(WRITTEN)
    run = project.run_apart("-p", "xdist", "-n2", WRITTEN[1])
    run.assert_outcomes(passed=2)
    run.stdout.fnmatch_lines(["plan: example_server *ok*", "plan: example_page *ok*"])
    cache = pytestconfig.cache.mkdir("mypy")
    for command in (
        ["ruff", "check", *RUFF, *WRITTEN],
        ["ruff", "format", "--isolated", "--check", *WRITTEN],
        ["mypy", "--strict", "--cache-dir", str(cache), *WRITTEN],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=project.path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_that_exists_is_never_changed(project: Project) -> None:
    """Next to a conftest the example has its own folder, and a second example is refused."""
    project.write("tests/conftest.py", "1 / 0\n")
    result = begin(project)
    result.stdout.fnmatch_lines(
        [
            "plan: tests/conftest.py exists and is not changed",
            "plan: created tests/plan_example/conftest.py with the steps *",
            "plan: to run the tests: pytest -p pytest_plan tests/plan_example/test_plan_example.py",
        ]
    )
    apart = {f"tests/plan_example/{name}" for name in WRITTEN}
    assert files(project) == {"tests/conftest.py", *apart}
    assert (project.path / "tests/conftest.py").read_text() == "1 / 0\n"
    project.write("tests/plan_example/conftest.py", "")
    refuses(
        project.run("--plan-init"),
        "--plan-init: tests/plan_example/conftest.py exists already, so nothing was written",
    )
    assert (project.path / "tests/plan_example/conftest.py").read_text() == ""
    (project.path / "tests/plan_example/conftest.py").unlink()
    refuses(project.run("--plan-init"), "tests/plan_example/test_plan_example.py exists already")
    assert files(project) == {"tests/conftest.py", "tests/plan_example/test_plan_example.py"}


def test_it_writes_where_pytest_looks_for_tests(project: Project) -> None:
    """The given folder or `testpaths` decide where, and `python_files` under which name."""
    project.write(
        "pytest.ini", "[pytest]\ntestpaths = missing checks\npython_files = *_test.py ok.py\n"
    )
    (project.path / "checks").mkdir()
    begin(project)
    names = {"conftest.py", "plan_example_test.py"}
    assert files(project) == {"pytest.ini", *(f"checks/{name}" for name in names)}
    begin(project, "new/folder")
    assert {f"new/folder/{name}" for name in names} < files(project)


def test_it_leaves_the_project_alone_if_the_folder_is_wrong(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A link out of the project, a file, two folders or another command are usage errors."""
    project.write("pytest.ini", "[pytest]\n")
    outside = tmp_path_factory.mktemp("outside")
    (project.path / "tests").symlink_to(outside)
    refuses(project.run("--plan-init"), f"tests is {outside.resolve()}, which is outside of the")
    refuses(project.run("--plan-init", "pytest.ini"), "takes a folder, not the file 'pytest.ini'")
    refuses(project.run("--plan-init", "a", "b"), "--plan-init takes at most one folder")
    refuses(
        project.run("--plan-init", "--plan-doctor"),
        "--plan-init and --plan-doctor cannot be used together",
    )
    assert files(project) == {"pytest.ini", "tests"}
    assert os.listdir(outside) == []


def test_a_link_in_place_of_a_file_is_not_followed(project: Project) -> None:
    """A link that points to nothing is a file that exists."""
    target = project.path.parent / "elsewhere.py"
    (project.path / "conftest.py").symlink_to(target)
    begin(project).stdout.fnmatch_lines(["plan: conftest.py exists and is not changed"])
    assert not Path(target).exists()

"""Type checkers accept the public API as a user writes it, and refuse what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
API = Path(__file__).with_name("api.py")
WRONG = """
from pytest_plan import Context, GenericStep, Plan, PlanHandle

Plan(limit=[1])
Plan().add_step(print)
GenericStep(run=print)
Plan(jobs="2")

def step(ctx: Context) -> None:
    ctx.sleep([1])
    ctx.run("one string")
    ctx.absent()

def test_it(plan: PlanHandle) -> None:
    plan.need(1)
    plan.run_id = "x"
"""
LINES_IN_WRONG = {4, 5, 6, 7, 10, 12, 15, 16}


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user: no configuration of ours applies."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "api.py").write_text(API.read_text())
    (folder / "wrong.py").write_text(WRONG)
    return folder


@pytest.fixture(scope="module")
def mypy(apart: Path, pytestconfig: pytest.Config) -> list[str]:
    """What mypy --strict says about both files, one error per line."""
    cache = pytestconfig.cache.mkdir("mypy")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, "api.py", "wrong.py"],
        cwd=apart, env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return [line for line in result.stdout.splitlines() if ": error:" in line]


def test_mypy_strict_accepts_the_api(mypy: list[str]) -> None:
    """Not a word from mypy --strict."""
    assert [line for line in mypy if line.startswith("api.py")] == []


def test_mypy_strict_refuses_mistakes(mypy: list[str]) -> None:
    """Every wrong line is found: the API is not all Any."""
    wrong = [line for line in mypy if line.startswith("wrong.py")]
    assert {int(line.split(":")[1]) for line in wrong} == LINES_IN_WRONG, wrong


def test_pyright_strict_accepts_the_api(apart: Path) -> None:
    """Pyright in strict mode reports no error."""
    pytest.importorskip("pyright")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "include": ["api.py"]}
    (apart / "pyrightconfig.json").write_text(json.dumps(settings))
    result = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"],
        cwd=apart, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(result.stdout)["generalDiagnostics"]
    messages = [f"{one['range']['start']['line'] + 1}: {one['message']}" for one in found]
    assert messages == []

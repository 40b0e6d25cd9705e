"""Type checkers accept the public API as users write it, and refuse mistakes."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_plan
import pytest_plan.steps

ROOT = Path(__file__).parent.parent.parent
API = Path(__file__).with_name("api.py")
WRONG = """
from pytest_plan import Context, GenericStep, Plan, PlanHandle, State, plan_step

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

@plan_step(retrys=2)
def misspelt() -> None: ...

@plan_step(retries="2")
def text_for_a_number() -> None: ...

@plan_step(per="session")
def no_such_word() -> None: ...

@plan_step("shop")
def positional() -> None: ...

@plan_step(retry_on=OSError("no"))
def no_class() -> None: ...

@plan_step
def right(ctx: Context, state: State) -> int:
    port: str = state.get("port", type=int)
    return "text"

right(1)
"""
# Public to our own modules only: their types are internal, and only mypy checks them.
OURS = ("Context.__init__", "PlanHandle.__init__")
LINES_IN_WRONG = {4, 5, 6, 7, 10, 12, 15, 16, 18, 21, 24, 27, 30, 35, 36, 38}
LINE_OF_WRONG_VALUE = 21


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, to which our configuration does not apply."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "api.py").write_text(API.read_text())
    (folder / "wrong.py").write_text(WRONG)
    return folder


@pytest.fixture(scope="module")
def mypy(apart: Path, pytestconfig: pytest.Config) -> list[str]:
    """The errors that mypy --strict reports for both files, one per line."""
    cache = pytestconfig.cache.mkdir("mypy")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, "api.py", "wrong.py"],
        cwd=apart, env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return [line for line in result.stdout.splitlines() if ": error:" in line]


@pytest.fixture(scope="module")
def pyright(apart: Path) -> dict[str, dict[int, str]]:
    """The errors that pyright reports in strict mode, by file and line."""
    pytest.importorskip("pyright")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (apart / "pyrightconfig.json").write_text(json.dumps(settings))
    result = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"],
        cwd=apart, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: dict[str, dict[int, str]] = {}
    for one in json.loads(result.stdout)["generalDiagnostics"]:
        line = one["range"]["start"]["line"] + 1
        found.setdefault(Path(one["file"]).name, {})[line] = one["message"]
    return found


def test_mypy_strict_accepts_the_api(mypy: list[str]) -> None:
    """Strict mypy reports no error in `api.py`."""
    assert [line for line in mypy if line.startswith("api.py")] == []


def test_mypy_strict_refuses_mistakes(mypy: list[str]) -> None:
    """Strict mypy reports every wrong line, so the API is not just Any."""
    wrong = [line for line in mypy if line.startswith("wrong.py")]
    assert {int(line.split(":")[1]) for line in wrong} == LINES_IN_WRONG, wrong
    assert any("retrys" in line and "retries" in line for line in wrong), wrong


def test_pyright_strict_accepts_the_api(pyright: dict[str, dict[int, str]]) -> None:
    """Pyright in strict mode reports no error in `api.py`."""
    assert pyright.get("api.py", {}) == {}


def test_pyright_strict_refuses_mistakes(pyright: dict[str, dict[int, str]]) -> None:
    """Pyright reports every wrong line, and names a decorator's option with a wrong value."""
    wrong = pyright["wrong.py"]
    assert LINES_IN_WRONG - set(wrong) == set(), wrong
    assert "retries" in wrong[LINE_OF_WRONG_VALUE]


def test_api_uses_every_public_name() -> None:
    """`api.py` uses every public name, so that checking it checks the whole API."""
    tree = ast.parse(API.read_text())
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {*pytest_plan.__all__, *pytest_plan.steps.__all__} <= used


def test_pyright_knows_the_type_of_every_public_name() -> None:
    """No parameter, attribute or return value has an unknown type or one that pyright guesses."""
    pytest.importorskip("pyright")
    bin_folder = str(Path(sys.executable).parent)
    result = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson",
         "--ignoreexternal", "--verifytypes", "pytest_plan"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        # For `--verifytypes` pyright always uses the first `python` on PATH.
        env={**os.environ, "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]])},
    )  # fmt: skip
    symbols = json.loads(result.stdout)["typeCompleteness"]["symbols"]
    promised = [f"pytest_plan.{home}" for home in _homes()]
    found = [one for one in symbols if one["name"].startswith(tuple(f"{p}." for p in promised))]
    assert len(found) > len(promised)
    guessed = [one["name"] for one in found if one["isTypeAmbiguous"] or not one["isTypeKnown"]]
    assert [name for name in guessed if not name.endswith(tuple(f".{o}" for o in OURS))] == []


def _homes() -> list[str]:
    return ["steps.service.Service", "engine.shared.programs.readiness.Condition"] + [
        f"{home}.{name}" for home, names in pytest_plan._HOMES.items() for name in names.split()
    ]

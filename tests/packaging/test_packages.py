"""The contents of the wheel and the source distribution."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import pytest_plan
from tests.plugin.project import ROOT

NAME = f"pytest_plan-{pytest_plan.__version__}"
AT_THE_TOP = {
    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "PKG-INFO", "README.md", "SECURITY.md",
    "pyproject.toml", "tox.ini",
}  # fmt: skip
FOLDERS = {".ci", "docs", "pytest_plan", "tests"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions, built by the build backend without a network."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist"]
    subprocess.run([*command, "-d", folder], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    """The wheel."""
    return zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl")


@pytest.fixture(scope="module")
def sources(built: Path) -> set[str]:
    """The paths of the files in the source distribution, below its top folder."""
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_wheel_is_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """The wheel has every module, `py.typed` and the metadata, and nothing else."""
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pytest_plan").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "pytest_plan/py.typed" in package
    metadata = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert set(wheel.namelist()) == package | {f"{NAME}.dist-info/{file}" for file in metadata}


def test_wheel_is_found_by_pytest(wheel: zipfile.ZipFile) -> None:
    """The only entry point has the plugin's module, so that the plugin is registered once."""
    entry_points = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
    assert entry_points.split("\n") == ["[pytest11]", "pytest_plan = pytest_plan.plugin", ""]


def test_sources_hold_all_that_a_packager_needs(sources: set[str]) -> None:
    """The source distribution has the tests, their tools and the pages that they check."""
    for needed in ("tests/packaging/test_packages.py", "docs/conf.py", ".ci/run", "pyproject.toml"):
        assert needed in sources


def test_sources_hold_nothing_else(sources: set[str]) -> None:
    """The source distribution has no cache, no result of a run and no built site."""
    assert {name for name in sources if "/" not in name} - {".gitignore"} == AT_THE_TOP
    assert {name.split("/")[0] for name in sources if "/" in name} == FOLDERS
    assert [name for name in sources if "__pycache__" in name or "_build" in name] == []

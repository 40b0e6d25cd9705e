"""A newcomer's path: install, begin, run, see a step fail, keep, reuse, clean up.

Each output is compared with a file in `newcomer/`, which people review. After a change of the
output, rewrite the files with `DOCS_WRITE=1 pytest tests/acceptance/test_newcomer.py`, and read
them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.docs.pages import WRITES
from tests.docs.shell import matches, without_header
from tests.plugin.project import ROOT

EXPECTED = Path(__file__).with_name("newcomer")
# What differs between runs and machines, and what the files have in its place.
VARIES = (
    (r"(?m)^plan: \w+ +(running|cleaning up) .*\n", ""),  # on a slow machine, a step takes long
    (r"\b\d+\.\d\ds\b", "0.00s"),
    (r"\b[0-9a-f]{8}\b", "1a2b3c4d"),
    (r"127\.0\.0\.1[: ]\d+", "127.0.0.1:8080"),
    (r"(?<= )\d{5}(?= )", "8080"),
    (r"plan-[0-9a-f]{12}", "plan-0123456789ab"),
)


class Newcomer:
    """A new virtual environment, a new home folder, and an empty project in it.

    Args:
        folder: the folder for all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.project = folder / "shop"
        self.project.mkdir()
        self._folder = folder
        self._venv = folder / "venv"
        venv.create(self._venv)
        for name in _needed("pytest-plan"):
            self._link(metadata.distribution(name))

    def install(self) -> str:
        """Install the package as pip does it from an index, and return what pip says."""
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
        subprocess.run([*build, "-d", self._folder], cwd=ROOT, check=True, capture_output=True)
        (wheel,) = self._folder.glob("*.whl")
        pip = [sys.executable, "-m", "pip", "--python", str(self._python)]
        environment = {name: own for name, own in os.environ.items() if not name.startswith("PIP_")}
        done = subprocess.run(
            [*pip, "install", "--no-index", "--no-deps", "--disable-pip-version-check", str(wheel)],
            env={**environment, "PIP_CONFIG_FILE": os.devnull},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return f"$ pip install pytest-plan\n{done.stdout.splitlines()[-1]}\n"

    def type(self, command: str) -> str:
        """Run a command of pytest in the project; return it with its output."""
        done = subprocess.run(
            [self._python, "-m", *command.split()], cwd=self.project, text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "COLUMNS": "80",
                 "TMPDIR": os.environ.get("TMPDIR", "/tmp")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        text = f"$ {command}\n{done.stdout}(exit status {done.returncode})\n"
        text = text.replace(str(self._python), "/home/you/venv/bin/python")
        text = text.replace(str(self._folder), "/home/you")
        for pattern, instead in VARIES:
            text = re.sub(pattern, instead, text)
        return without_header(text)

    @property
    def _python(self) -> Path:
        return self._venv / "bin" / "python"

    def _link(self, package: metadata.Distribution) -> None:
        """Make an installed package available in the new environment."""
        (site,) = self._venv.glob("lib/python*/site-packages")
        for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(package.locate_file(name))).resolve())


def _needed(package: str) -> Iterator[str]:
    """Yield the packages that a package needs, and those that they need."""
    for text in metadata.requires(package) or ():
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            yield one.name
            yield from _needed(one.name)


@pytest.mark.skipif(sys.platform == "win32", reason="the paths are those of a POSIX system")
def test_every_output_is_as_reviewed(tmp_path: Path, outside: None) -> None:
    """The outputs on the path are those in `newcomer/`, apart from times, ids and ports."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    pytest.importorskip("pip", reason="pip is not installed")
    newcomer = Newcomer(tmp_path)
    conftest = newcomer.project / "conftest.py"
    said = {"1-install": newcomer.install(), "2-init": newcomer.type("pytest --plan-init")}
    said["3-first-run"] = newcomer.type("pytest")
    right = conftest.read_text()
    conftest.write_text(right.replace('"http.server"', '"http.sever"'))
    said["4-failing-step"] = newcomer.type("pytest")
    conftest.write_text(right)
    said["5-keep"] = newcomer.type("pytest --plan-keep always")
    said["6-reuse"] = newcomer.type("pytest --plan-reuse")
    said["7-cleanup"] = newcomer.type("pytest --plan-cleanup")
    wrong = []
    for name, text in said.items():
        file = EXPECTED / f"{name}.txt"
        if file.exists() and matches(file.read_text(), text):
            continue
        wrong.append(f"{file.name} differs; now it is:\n{text}")
        if WRITES:
            file.write_text(text)
    assert not wrong, "\n".join(wrong)

"""The README is right: its code runs, and its commands are the ones that CI checks."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def file_name(block: str) -> str | None:
    """Return the file name that a block's first line consists of, or None."""
    match = re.match(r"# ([\w/]+\.py)\n", block)
    return match[1] if match else None


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with the README's files, isolated from other installed plugins."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for block in BLOCKS:
        if name := file_name(block):
            (pytester.path / name).write_text(block)
    return pytester


@pytest.mark.parametrize("block", BLOCKS)
def test_code_blocks_compile(block: str) -> None:
    """Every python block is valid Python."""
    compile(block, file_name(block) or "README.md", "exec")


def test_example_passes(project: pytest.Pytester) -> None:
    """The example, copied into files, passes without a warning."""
    result = project.runpytest_subprocess("-p", "pytest_plan", "-W", "error")
    result.assert_outcomes(passed=2)
    assert result.ret == 0


def test_scripts_run_without_pytest(project: pytest.Pytester) -> None:
    """A block that is neither a conftest nor a test module runs as a plain script."""
    names = [name for name in map(file_name, BLOCKS) if name]
    scripts = [name for name in names if name != "conftest.py" and not name.startswith("test_")]
    assert scripts
    for script in scripts:
        subprocess.run([sys.executable, "-W", "error", script], check=True, cwd=project.path)


def test_each_command_fits_one_line_and_installs_before_it_tests() -> None:
    """The two commands can be pasted one after the other into a fresh clone."""
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        assert re.fullmatch(r"pip install -e '\.\[[\w,]+\]' && pytest\S*( \S+)?\n", command)


def test_ci_runs_the_command_that_runs_all_tests() -> None:
    """`.ci/run` takes its test command from the README, and must find exactly the second one."""
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -m 1 '(.+)' README\.md", script)
    assert pattern
    matches = [line for line in README.splitlines() if re.search(pattern[1], line)]
    assert matches == [COMMANDS[1].strip()]


def test_links_lead_to_files() -> None:
    """Links in the README and in the other files of its folder lead to existing files."""
    for page in ROOT.glob("*.md"):
        links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
        assert [link for link in links if not (ROOT / link).exists()] == []

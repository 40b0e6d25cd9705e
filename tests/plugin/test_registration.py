"""The plugin is registered exactly once however it is loaded, and not at all if it is disabled."""

from __future__ import annotations

import importlib.metadata
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from tests.plugin.project import ROOT, Project

ENTRY_POINT = "[pytest11]\npytest_plan = pytest_plan.plugin\n"
METADATA = "Metadata-Version: 2.1\nName: pytest-plan\nVersion: 0.1.0\n"
# Counts the names under which the plugin's module is registered.
CHECK = """
import sys

def pytest_sessionstart(session):
    manager = session.config.pluginmanager
    names = [name for name, plugin in manager.list_name_plugin()
             if getattr(plugin, "__name__", None) == "pytest_plan.plugin"]
    note("registered", len(names))
"""


@pytest.fixture
def checked(project: Project) -> Project:
    """A project that records how often the plugin is registered and needs one step."""
    project.steps(CHECK, "@pytest.mark.plan_step\ndef db(): return 7")
    project.tests("def test_it(db, plan): assert db == 7")
    return project


@pytest.fixture
def installed(checked: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same project, with the plugin's entry point in an installed distribution."""
    folder = checked.path / "site" / "pytest_plan-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "entry_points.txt").write_text(ENTRY_POINT)
    (folder / "METADATA").write_text(METADATA)
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.setenv("PYTEST_ADDOPTS", without_plugins_of_our_tests())
    prepend(monkeypatch, folder.parent)
    return checked


def without_plugins_of_our_tests() -> str:
    """Return the options with which this project's own runs exclude installed plugins."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    excluded = [one for one in settings["ini_options"]["addopts"] if one.startswith("no:")]
    return " ".join(f"-p {one}" for one in excluded)


def prepend(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Add a folder to the import path of the runs."""
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")


def passes_once(result: pytest.RunResult, project: Project) -> None:
    """Check that the plugin worked, was registered once, and caused no warning."""
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    assert project.calls == ["registered 1"]
    assert "Warning" not in result.stdout.str() + result.stderr.str()


INSTALLED = importlib.metadata.entry_points(group="pytest11", name="pytest_plan")


class TestNotInstalled:
    """The package can be imported, but no distribution has its entry point."""

    def test_option(self, checked: Project) -> None:
        """`-p pytest_plan` registers the plugin once."""
        run = checked.pytester.runpytest_subprocess
        passes_once(run("-W", "error", "-p", "pytest_plan"), checked)

    def test_option_twice(self, checked: Project) -> None:
        """`-p pytest_plan` given twice registers the plugin once."""
        run = checked.pytester.runpytest_subprocess
        passes_once(run("-W", "error", "-p", "pytest_plan", "-p", "pytest_plan"), checked)

    @pytest.mark.skipif(bool(INSTALLED), reason="installed, pytest itself refuses a second name")
    def test_option_with_the_module(self, checked: Project) -> None:
        """`-p pytest_plan -p pytest_plan.plugin` registers the plugin once."""
        run = checked.pytester.runpytest_subprocess
        passes_once(run("-W", "error", "-p", "pytest_plan", "-p", "pytest_plan.plugin"), checked)

    @pytest.mark.parametrize("name", ["pytest_plan", "pytest_plan.plugin"])
    def test_environment(
        self, checked: Project, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """PYTEST_PLUGINS can name the package or the module."""
        monkeypatch.setenv("PYTEST_PLUGINS", name)
        passes_once(checked.pytester.runpytest_subprocess("-W", "error"), checked)

    def test_environment_and_option(
        self, checked: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PYTEST_PLUGINS together with `-p` registers the plugin once."""
        monkeypatch.setenv("PYTEST_PLUGINS", "pytest_plan")
        run = checked.pytester.runpytest_subprocess
        passes_once(run("-W", "error", "-p", "pytest_plan"), checked)

    def test_conftest(self, checked: Project) -> None:
        """`pytest_plugins` in the rootdir conftest registers the plugin once."""
        source = (checked.path / "conftest.py").read_text()
        checked.write("conftest.py", source + "\npytest_plugins = ['pytest_plan']\n")
        passes_once(checked.pytester.runpytest_subprocess("-W", "error"), checked)

    def test_conftest_that_has_imported_the_plugin(self, checked: Project) -> None:
        """Importing a public name before the plugin is registered causes no warning."""
        source = (checked.path / "conftest.py").read_text()
        checked.write(
            "conftest.py",
            "from pytest_plan import PlanHandle\npytest_plugins = ['pytest_plan']\n" + source,
        )
        passes_once(checked.pytester.runpytest_subprocess("-W", "error"), checked)

    def test_conftest_and_option(self, checked: Project) -> None:
        """`pytest_plugins` together with `-p` registers the plugin once."""
        source = (checked.path / "conftest.py").read_text()
        checked.write("conftest.py", source + "\npytest_plugins = ['pytest_plan']\n")
        passes_once(checked.run_apart(), checked)

    def test_not_asked_for(self, checked: Project) -> None:
        """The plugin is not registered unless it is asked for."""
        result = checked.pytester.runpytest_subprocess()
        result.assert_outcomes(errors=1)
        assert checked.calls == ["registered 0"]

    def test_refused(self, checked: Project) -> None:
        """`-p no:pytest_plan` after `-p pytest_plan` disables the plugin."""
        checked.pytester.runpytest_subprocess("-p", "pytest_plan", "-p", "no:pytest_plan")
        assert checked.calls == ["registered 0"]


class TestInstalled:
    """A distribution has the entry point `pytest_plan = pytest_plan.plugin`."""

    def test_alone(self, installed: Project) -> None:
        """The entry point alone registers the plugin."""
        passes_once(installed.pytester.runpytest_subprocess("-W", "error"), installed)

    @pytest.mark.parametrize("args", [["pytest_plan"], ["pytest_plan", "pytest_plan"]])
    def test_with_option(self, installed: Project, args: list[str]) -> None:
        """The entry point together with `-p`, once or twice, registers the plugin once."""
        options = [word for name in args for word in ("-p", name)]
        passes_once(installed.pytester.runpytest_subprocess("-W", "error", *options), installed)

    def test_with_environment(self, installed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """The entry point together with PYTEST_PLUGINS registers the plugin once."""
        monkeypatch.setenv("PYTEST_PLUGINS", "pytest_plan")
        passes_once(installed.pytester.runpytest_subprocess("-W", "error"), installed)

    def test_with_conftest(self, installed: Project) -> None:
        """The entry point together with `pytest_plugins` registers the plugin once."""
        source = (installed.path / "conftest.py").read_text()
        installed.write("conftest.py", source + "\npytest_plugins = ['pytest_plan']\n")
        passes_once(installed.pytester.runpytest_subprocess("-W", "error"), installed)

    def test_without_autoload(self, installed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 disables the entry point."""
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        installed.pytester.runpytest_subprocess()
        assert installed.calls == ["registered 0"]

    def test_without_autoload_with_option(
        self, installed: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With PYTEST_DISABLE_PLUGIN_AUTOLOAD=1, `-p pytest_plan` still registers the plugin."""
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        run = installed.pytester.runpytest_subprocess
        passes_once(run("-W", "error", "-p", "pytest_plan"), installed)

    def test_refused(self, installed: Project) -> None:
        """`-p no:pytest_plan` disables the entry point."""
        installed.pytester.runpytest_subprocess("-p", "no:pytest_plan")
        assert installed.calls == ["registered 0"]

    def test_another_copy_on_the_path(
        self, installed: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A second distribution with the same entry point on the path changes nothing."""
        folder = installed.path / "other" / "pytest_plan-0.1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "entry_points.txt").write_text(ENTRY_POINT)
        (folder / "METADATA").write_text(METADATA)
        prepend(monkeypatch, folder.parent)
        run = installed.pytester.runpytest_subprocess
        passes_once(run("-W", "error", "-p", "pytest_plan"), installed)


class TestImports:
    """How the plugin's modules are imported."""

    def test_our_modules_are_not_rewritten(
        self, project: Project, pytester: pytest.Pytester
    ) -> None:
        """Our modules are not rewritten, which saves time, and import finders are restored."""
        project.steps("@pytest.mark.plan_step\ndef db(): return 7")
        project.tests("def test_it(db): pass")
        code = """
            import sys
            import pytest

            assert pytest.main(["-p", "pytest_plan", "-p", "no:cacheprovider"]) == 0
            run = sys.modules["pytest_plan.engine.execution.run"]
            print("loader", type(run.__spec__.loader).__name__)
            print("left", [one for one in sys.meta_path if "pytest_plan" in repr(one)])
        """
        result = pytester.run(sys.executable, "-c", textwrap.dedent(code))
        result.stdout.fnmatch_lines(["loader SourceFileLoader", "left []"])


class TestBesideOthers:
    """Strict options, and runs without some of pytest's own plugins."""

    @pytest.mark.parametrize(
        "options",
        [
            ["--strict-markers", "--strict-config"],
            ["--strict"],
            ["-p", "no:xdist"],
            ["-p", "no:timeout"],
            ["-p", "no:cacheprovider"],
            ["-p", "no:logging"],
            ["-p", "no:faulthandler"],
            ["-p", "no:doctest", "-p", "no:junitxml", "-p", "no:stepwise"],
            ["-p", "xdist.plugin", "-p", "pytest_timeout", "-p", "pytest_rerunfailures"],
            ["--import-mode=importlib"],
            ["--import-mode=append"],
        ],
        ids=" ".join,
    )
    def test_run_passes_with(self, checked: Project, options: list[str]) -> None:
        """The plan runs as usual with any of these options."""
        result = checked.run(*options)
        assert result.ret == 0
        result.assert_outcomes(passed=1)
        assert checked.calls == ["registered 1"]

    @pytest.mark.parametrize("failing", [False, True])
    def test_without_terminal(self, checked: Project, failing: bool) -> None:
        """With `-p no:terminal` nothing is printed, and the exit status is right."""
        if failing:
            checked.steps("@pytest.mark.plan_step\ndef db(): raise RuntimeError('no')")
        result = checked.pytester.runpytest_subprocess(
            "-p", "pytest_plan", "-p", "no:terminal", "-W", "error"
        )
        assert result.ret == int(failing)
        assert result.stdout.str() == ""
        assert result.stderr.str() == ""

    @pytest.mark.parametrize("failing", [False, True])
    @pytest.mark.parametrize("option", ["-s", "--capture=sys", "--capture=tee-sys"])
    def test_with_another_capture(self, checked: Project, option: str, failing: bool) -> None:
        """The exit status and the report are the same with every capture method."""
        if failing:
            checked.steps(
                "@pytest.mark.plan_step\ndef db(): print('said'); raise RuntimeError('no')"
            )
        result = checked.run_apart(option)
        assert result.ret == int(failing)
        tail = "Captured stdout and log of plan step 'db'"
        assert (tail in result.stdout.str()) == failing

    def test_plugin_unused_imports_no_engine(self, project: Project) -> None:
        """A run without steps does not import the engine, psutil, tenacity or xdist."""
        project.tests("""
        import sys
        def test_it():
            wanted = ("pytest_plan.plugin.session.session", "psutil", "tenacity", "xdist",
                      "execnet", "pytest_timeout", "sqlite3", "pytimeparse2")
            assert [name for name in wanted if name in sys.modules] == []
        """)
        result = project.pytester.runpytest_subprocess("-p", "pytest_plan.plugin", "-W", "error")
        result.assert_outcomes(passed=1)

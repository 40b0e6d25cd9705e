"""Fallbacks for missing internals of pytest and pytest-timeout."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import types
from typing import Any

import pluggy
import pytest

from pytest_plan.plugin.compat import (
    coverage_internals,
    fixture_internals,
    pytest_internals,
    report_internals,
    timeout_internals,
)
from tests.plugin.project import Project, plan_lines

CUSTOM_ITEMS = """
class Line(pytest.Item):
    def runtest(self):
        note("ran", self.name)

class File(pytest.File):
    def collect(self):
        item = Line.from_parent(self, name="one")
        item.add_marker(pytest.mark.plan("db"))
        yield item

def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".lines":
        return File.from_parent(parent, path=file_path)
"""


class TestPytest:
    """Versions of pytest with other internals."""

    def test_item_without_fixtures_needs_what_its_marks_name(self, project: Project) -> None:
        """An item of another plugin, which has no fixtures, needs the steps that its marks name."""
        project.steps("@pytest.mark.plan_step\ndef db(): note('db')", CUSTOM_ITEMS)
        project.write("test.lines", "")
        result = project.run_apart()
        assert result.ret == pytest.ExitCode.OK
        assert project.calls == ["db", "ran one"]

    def test_fixture_closure_of_another_shape_is_unknown(self) -> None:
        """The fixture closure is unknown if it lacks the attributes that we read."""

        class Item:
            _fixtureinfo = object()

        assert fixture_internals.fixture_info(Item()) is None  # type: ignore[arg-type]

    def test_conftest_is_not_loaded_without_the_loader(self) -> None:
        """Without pytest's conftest loader nothing is loaded, and no error is raised."""

        class Config:
            pluginmanager = pluggy.PluginManager("pytest")

        pytest_internals.load_conftest(Config(), "conftest.py")  # type: ignore[arg-type]

    def test_no_fixture_is_known_without_the_manager(self, project: Project) -> None:
        """Without the fixture manager no fixture definition is found, and no error is raised."""
        config = project.pytester.parseconfig()
        assert fixture_internals.fixture_definitions(config, "tmp_path") == []

    def test_order_of_plugins_stays_without_the_manager(self, project: Project) -> None:
        """Without the fixture manager the order of definitions stays, and no error is raised."""
        config = project.pytester.parseconfig()
        fixture_internals.let_others_override(config, "plan", lambda: None)

    def test_warning_is_given_to_a_hook_that_is_not_historic(self) -> None:
        """If the warning hook is not historic, the registered plugins still get the warning."""
        warned = []

        class Spec:
            @pytest.hookspec
            def pytest_warning_recorded(
                self, warning_message: object, when: str, nodeid: str, location: None
            ) -> None:
                """A hook that is not historic."""

        class Plugin:
            @pytest.hookimpl
            def pytest_warning_recorded(self, warning_message: object) -> None:
                warned.append(str(warning_message))

        class Config:
            def __init__(self) -> None:
                manager = pluggy.PluginManager("pytest")
                manager.add_hookspecs(Spec)
                manager.register(Plugin())
                self.hook = manager.hook

        pytest_internals.warn(Config(), "mind the step")  # type: ignore[arg-type]
        assert len(warned) == 1
        assert "mind the step" in warned[0]

    def test_skip_without_a_choice_of_location(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The test is skipped even if pytest's exception cannot take a location."""

        class Skipped(pytest.skip.Exception):  # type: ignore[name-defined, misc]
            def __init__(self, msg: str) -> None:
                super().__init__(msg)

        monkeypatch.setattr(pytest.skip, "Exception", Skipped)
        with pytest.raises(Skipped, match="no database"):
            pytest_internals.skip_at_item("no database")

    @pytest.mark.parametrize("capture", ["fd", "sys", "tee-sys"])
    def test_capture_manager_whose_streams_cannot_be_held(
        self, project: Project, capture: str
    ) -> None:
        """If the streams cannot be held, plan lines are shown and output goes to the log."""
        project.steps(
            """
            from pytest_plan.plugin.compat import pytest_internals

            pytest_internals._owner = lambda manager, name: None

            @pytest.mark.plan_step
            def db():
                print("first")

            @pytest.mark.plan_step
            def web(db):
                print("second")
                raise RuntimeError("no")
            """
        )
        project.tests("def test_it(web): pass")
        result = project.run_apart(f"--capture={capture}")
        lines = [line.split()[1:3] for line in plan_lines(result)]
        assert lines[:2] == [["db", "ok"], ["web", "FAILED"]]
        text = result.stdout.str()
        assert text.count("second") == 2  # once in the source code and once in the log
        assert "first" not in text.replace('print("first")', "")


class TestWithoutInternals:
    """Versions of pytest, coverage.py and pytest-cov without what we use."""

    class Config:
        """A config without plugins."""

        pluginmanager = pluggy.PluginManager("pytest")

    def test_fixtures_are_torn_down_by_pytest_itself(self, project: Project) -> None:
        """Without the setup state, pytest tears the fixtures down, and cleanup still runs."""
        project.steps(
            """
            from pytest_plan.plugin.compat import fixture_internals

            fixture_internals.tear_down_fixtures.__globals__["getattr"] = (
                lambda *arguments: None if "_setupstate" in arguments else getattr(*arguments)
            )

            @pytest.mark.plan_step
            def db():
                yield
                note("undo")

            @pytest.fixture(scope="session")
            def connection(db):
                yield
                note("disconnect")
            """
        )
        project.tests("def test_it(connection): pytest.exit('enough')")
        assert project.run_apart().ret == pytest.ExitCode.INTERRUPTED
        assert sorted(project.calls) == ["disconnect", "undo"]

    def test_logs_of_steps_keep_their_defaults(self) -> None:
        """Without pytest's logging plugin, the handler and live records are left unchanged."""
        config: Any = self.Config()
        handler = logging.NullHandler()
        pytest_internals.append_to_log_file(config)
        assert pytest_internals.configure_log(config, handler) is None
        assert (handler.level, handler.formatter) == (logging.NOTSET, None)
        with pytest_internals.show_live_logs(config, str, contextlib.nullcontext):
            pass

    def test_progress_is_left_to_pytest(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Without the terminal reporter, nothing is written before cleanup."""
        report_internals.end_progress(self.Config())  # type: ignore[arg-type]
        assert capsys.readouterr() == ("", "")

    def test_threads_are_not_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With another version of coverage.py, no trace function is installed."""
        monkeypatch.setitem(sys.modules, "coverage", types.ModuleType("coverage"))
        before, other = sys.gettrace(), lambda *_: None
        sys.settrace(other)
        try:
            with coverage_internals.measure_threads():
                installed = threading.gettrace()
        finally:
            sys.settrace(before)
        assert installed is None

    def test_worker_without_pytest_cov(self) -> None:
        """Without pytest-cov, there is no warning to switch off, and no error is raised."""
        coverage_internals.allow_no_data(self.Config())  # type: ignore[arg-type]


class TestTimeout:
    """Versions of pytest-timeout with other internals."""

    def test_method_that_cannot_be_read_is_not_warned_of(self, project: Project) -> None:
        """There is no warning about the timeout method if the method cannot be determined."""
        assert not timeout_internals.ends_the_process(project.pytester.parseconfig())

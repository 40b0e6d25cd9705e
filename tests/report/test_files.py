"""Report files: how to request them, where they are written, and which usage errors occur."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.plugin.project import Project, refuses

STEP = "@pytest.mark.plan_step\ndef db(): note('db')"
TEST = "def test_it(db): note('test')"
ENDINGS = (".json", ".md", ".mmd", ".trace.json")


@pytest.fixture
def one(project: Project) -> Project:
    """A project with one step and a test that needs it."""
    project.steps(STEP)
    project.tests(TEST)
    return project


def written(project: Project) -> set[str]:
    """Return the names of the reports in any folder of the project."""
    return {path.name for path in project.path.rglob("plan.*")}


class TestRequesting:
    """--plan-report, its environment variable and its ini option."""

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_ending_decides(self, one: Project, ending: str) -> None:
        """The ending of the file decides its format, and the summary lists the file."""
        result = one.run("--plan-report", f"plan{ending}")
        assert result.ret == 0
        assert written(one) == {f"plan{ending}"}
        result.stdout.fnmatch_lines([f"plan report: *plan{ending}"])
        text = (one.path / f"plan{ending}").read_text()
        begins = {".json": '{\n  "schema": 2', ".md": "## Run", ".mmd": "flowchart"}
        assert text.startswith(begins.get(ending, '{"traceEvents"'))

    def test_several(self, one: Project) -> None:
        """The option may be repeated, and missing folders are created."""
        one.run("--plan-report", "out/deep/plan.json", "--plan-report=out/plan.md")
        assert written(one) == {"plan.json", "plan.md"}

    def test_path_with_a_space(self, one: Project) -> None:
        """Each value of the command line option is one path, even if it contains spaces."""
        one.run("--plan-report", "the plan.json")
        assert (one.path / "the plan.json").exists()

    def test_variable_and_ini_file(self, one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """Paths are split as in a shell; the environment variable overrides the ini file."""
        one.write("pytest.ini", "[pytest]\nplan_report = plan.json 'a folder/plan.md'\n")
        one.run()
        assert written(one) == {"plan.json", "plan.md"}
        monkeypatch.setenv("PYTEST_PLAN_REPORT", "plan.mmd")
        one.run()
        assert written(one) == {"plan.json", "plan.md", "plan.mmd"}

    def test_paths_of_the_ini_file_are_relative_to_rootdir(
        self, one: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ini paths are relative to rootdir, option paths to the working directory."""
        one.write("pytest.ini", "[pytest]\nplan_report = plan.json\n")
        below = one.path / "below"
        below.mkdir()
        monkeypatch.chdir(below)
        one.run("..")
        assert (one.path / "plan.json").exists()
        one.run("..", "--plan-report", "plan.json")
        assert (below / "plan.json").exists()

    def test_last_run_replaces(self, one: Project) -> None:
        """An existing report is replaced."""
        one.write("plan.json", "x" * 10_000)
        one.run("--plan-report", "plan.json")
        assert json.loads((one.path / "plan.json").read_text())["schema"] == 2

    def test_nothing_is_loaded_without_a_request(self, one: Project) -> None:
        """Without the option, neither the collector nor the report module is imported."""
        one.tests("""
        def test_it(db, pytestconfig):
            manager = pytestconfig.pluginmanager
            for name in ("pytest_plan_collector", "pytest_plan.report.files"):
                assert not manager.has_plugin(name)
        """)
        one.run_apart().assert_outcomes(passed=1)

    @pytest.mark.parametrize("args", [["--collect-only"], ["--setup-plan"], ["--plan-show"]])
    def test_no_report_without_a_run(self, one: Project, args: list[str]) -> None:
        """Options that run no test write no report of a run."""
        assert one.run("--plan-report", "plan.json", *args).ret == 0
        assert written(one) == set()


class TestRefusing:
    """Invalid values are usage errors before anything runs."""

    def test_unknown_ending(self, one: Project) -> None:
        """The message names the option, the value and the known endings."""
        result = one.run("--plan-report", "plan.pdf")
        refuses(result, "--plan-report: unknown report type 'plan.pdf'", *ENDINGS, ".html")
        assert one.calls == []

    def test_unknown_ending_elsewhere(self, one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message names the source of the value, also for the variable and the ini file."""
        one.write("pytest.ini", "[pytest]\nplan_report = plan.pdf\n")
        refuses(one.run(), "plan_report in pytest.ini: unknown report type 'plan.pdf'")
        monkeypatch.setenv("PYTEST_PLAN_REPORT", "plan")
        refuses(one.run(), "environment variable PYTEST_PLAN_REPORT: unknown report type 'plan'")
        monkeypatch.setenv("PYTEST_PLAN_REPORT", "'plan.md")
        refuses(one.run(), "environment variable PYTEST_PLAN_REPORT", "No closing quotation")

    def test_directory(self, one: Project) -> None:
        """An existing directory at the report's path is a usage error."""
        (one.path / "plan.json").mkdir()
        refuses(
            one.run("--plan-report", "plan.json"), "plan.json cannot be written: it is a directory"
        )
        assert one.calls == []

    def test_file_in_the_way(self, one: Project) -> None:
        """A file in place of the parent directory is a usage error."""
        one.write("out", "")
        refuses(
            one.run("--plan-report", "out/plan.json"), "cannot be written", "out is not a directory"
        )
        assert one.calls == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_no_permission(self, one: Project) -> None:
        """A directory without write permission is a usage error."""
        folder = one.path / "out"
        folder.mkdir(mode=0o500)
        refuses(one.run("--plan-report", "out/plan.json"), "no permission to write to")

    def test_only_the_controller_writes(self, one: Project) -> None:
        """With workers, the controller alone checks and writes the report."""
        result = one.run_apart("-p", "xdist", "-n", "2", "--plan-report", "plan.json")
        assert result.ret == 0
        assert result.stdout.str().count("plan report: ") == 1

    def test_error_at_the_end(self, one: Project) -> None:
        """If a report cannot be written at the end, it is listed in red; the others are written."""
        one.tests("""
        from pathlib import Path
        def test_it(db): Path("plan.json").mkdir()
        """)
        result = one.run("--plan-report=plan.json", "--plan-report=plan.md", "-q")
        result.stdout.fnmatch_lines(["plan report: *plan.json could not be written: IsADirectory*"])
        assert (one.path / "plan.md").exists()
        assert result.ret == 0


class TestGithubSummary:
    """The ini option plan_github_summary."""

    @pytest.fixture
    def summary(self, one: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The summary file of GitHub Actions, which already has content."""
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(one.path / "summary"))
        return one.write("summary", "before\n")

    def test_it_is_appended(self, one: Project, summary: Path) -> None:
        """With the ini option, the Markdown report is appended to the summary file."""
        result = one.run("-o", "plan_github_summary=true")
        assert summary.read_text().startswith("before\n## Run succeeded\n")
        result.stdout.fnmatch_lines(["plan report: $GITHUB_STEP_SUMMARY"])

    def test_it_stays_below_githubs_limit(self, one: Project, summary: Path) -> None:
        """What other commands have written counts; if they left no room, a line says so."""
        summary.write_text("x" * (1024 * 1024 - 20_000) + "\n")
        one.steps("@pytest.mark.plan_step\ndef db(): raise OSError(('no' * 99 + chr(10)) * 500)")
        one.run("-o", "plan_github_summary=true")
        size = summary.stat().st_size
        assert 1024 * 1024 - 20_000 < size <= 1024 * 1024
        assert "Failed steps not shown: 1." in summary.read_text()
        summary.write_text("x" * (1024 * 1024 - 5_000))
        result = one.run("-o", "plan_github_summary=true")
        result.stdout.fnmatch_lines(
            ["*GITHUB_STEP_SUMMARY could not be written: *1,043,576 bytes*"]
        )
        assert summary.stat().st_size == 1024 * 1024 - 5_000

    def test_off_by_default(self, one: Project, summary: Path) -> None:
        """Without the ini option, the summary file is unchanged."""
        one.run("--plan-report", "plan.md")
        assert summary.read_text() == "before\n"

    def test_outside_of_github(self, one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without $GITHUB_STEP_SUMMARY, the ini option has no effect."""
        monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        result = one.run("-o", "plan_github_summary=true")
        assert result.ret == 0
        assert "plan report" not in result.stdout.str()

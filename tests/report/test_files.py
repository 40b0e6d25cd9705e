"""Which files are asked for, where they go, and what is refused at the start."""

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
    """A step and a test that needs it."""
    project.steps(STEP)
    project.tests(TEST)
    return project


def written(project: Project) -> set[str]:
    """Return the reports that are there, whatever their folder."""
    return {path.name for path in project.path.rglob("plan.*")}


class TestAsking:
    """--plan-report, its variable and its ini value."""

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_ending_decides(self, one: Project, ending: str) -> None:
        """One file is written, of the kind that its ending says, and the summary names it."""
        result = one.run("--plan-report", f"plan{ending}")
        assert result.ret == 0
        assert written(one) == {f"plan{ending}"}
        result.stdout.fnmatch_lines([f"plan report: *plan{ending}"])
        text = (one.path / f"plan{ending}").read_text()
        begins = {".json": '{\n  "schema": 1', ".md": "## Plan", ".mmd": "flowchart"}
        assert text.startswith(begins.get(ending, '{"traceEvents"'))

    def test_several(self, one: Project) -> None:
        """The option may be repeated; folders are made."""
        one.run("--plan-report", "out/deep/plan.json", "--plan-report=out/plan.md")
        assert written(one) == {"plan.json", "plan.md"}

    def test_path_with_a_space(self, one: Project) -> None:
        """What is given on the command line is one path as it stands."""
        one.run("--plan-report", "the plan.json")
        assert (one.path / "the plan.json").exists()

    def test_variable_and_ini_file(self, one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """Several are separated as in a shell; the variable hides the ini file."""
        one.write("pytest.ini", "[pytest]\nplan_report = plan.json 'a folder/plan.md'\n")
        one.run()
        assert written(one) == {"plan.json", "plan.md"}
        monkeypatch.setenv("PYTEST_PLAN_REPORT", "plan.mmd")
        one.run()
        assert written(one) == {"plan.json", "plan.md", "plan.mmd"}

    def test_ini_file_means_rootdir(self, one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """A path of the ini file is the project's; one that is typed is the folder's."""
        one.write("pytest.ini", "[pytest]\nplan_report = plan.json\n")
        below = one.path / "below"
        below.mkdir()
        monkeypatch.chdir(below)
        one.run("..")
        assert (one.path / "plan.json").exists()
        one.run("..", "--plan-report", "plan.json")
        assert (below / "plan.json").exists()

    def test_last_run_replaces(self, one: Project) -> None:
        """A report that is there already is replaced."""
        one.write("plan.json", "x" * 10_000)
        one.run("--plan-report", "plan.json")
        assert json.loads((one.path / "plan.json").read_text())["schema"] == 1

    def test_nothing_is_collected_when_nothing_was_asked(self, one: Project) -> None:
        """Without the option no report is loaded."""
        one.tests("""
        def test_it(db, pytestconfig):
            manager = pytestconfig.pluginmanager
            for name in ("pytest_plan_collector", "pytest_plan.report.files"):
                assert not manager.has_plugin(name)
        """)
        one.run_apart().assert_outcomes(passed=1)

    @pytest.mark.parametrize("args", [["--collect-only"], ["--setup-plan"], ["--plan-show"]])
    def test_nothing_is_told_of_a_run_that_did_not_happen(
        self, one: Project, args: list[str]
    ) -> None:
        """Nothing ran: no report of a run is written."""
        assert one.run("--plan-report", "plan.json", *args).ret == 0
        assert written(one) == set()


class TestRefusing:
    """What is wrong is said before anything runs."""

    def test_unknown_ending(self, one: Project) -> None:
        """The message names the option, the value and the endings."""
        result = one.run("--plan-report", "plan.pdf")
        refuses(result, "--plan-report: 'plan.pdf'", *ENDINGS, ".html")
        assert one.calls == []

    def test_unknown_ending_elsewhere(self, one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message names the source of the value."""
        one.write("pytest.ini", "[pytest]\nplan_report = plan.pdf\n")
        refuses(one.run(), "plan_report in pytest.ini: 'plan.pdf'")
        monkeypatch.setenv("PYTEST_PLAN_REPORT", "plan")
        refuses(one.run(), "environment variable PYTEST_PLAN_REPORT: 'plan'")
        monkeypatch.setenv("PYTEST_PLAN_REPORT", "'plan.md")
        refuses(one.run(), "environment variable PYTEST_PLAN_REPORT", "No closing quotation")

    def test_folder(self, one: Project) -> None:
        """A folder of that name is in the way."""
        (one.path / "plan.json").mkdir()
        refuses(
            one.run("--plan-report", "plan.json"), "plan.json cannot be written: it is a directory"
        )
        assert one.calls == []

    def test_file_in_the_way(self, one: Project) -> None:
        """A file stands where a folder must be made."""
        one.write("out", "")
        refuses(
            one.run("--plan-report", "out/plan.json"), "cannot be written", "out is not a directory"
        )
        assert one.calls == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_no_permission(self, one: Project) -> None:
        """The folder may not be written."""
        folder = one.path / "out"
        folder.mkdir(mode=0o500)
        refuses(one.run("--plan-report", "out/plan.json"), "no permission to write to")

    def test_workers_do_not_look(self, one: Project) -> None:
        """It is the controller's report: it alone checks and writes, once."""
        result = one.run_apart("-p", "xdist", "-n", "2", "--plan-report", "plan.json")
        assert result.ret == 0
        assert result.stdout.str().count("plan report: ") == 1

    def test_disappeared_meanwhile(self, one: Project) -> None:
        """What can only fail at the end is said, and keeps no other report from being written."""
        one.tests("""
        from pathlib import Path
        def test_it(db): Path("plan.json").mkdir()
        """)
        result = one.run("--plan-report=plan.json", "--plan-report=plan.md", "-q")
        result.stdout.fnmatch_lines(["plan report: *plan.json could not be written: IsADirectory*"])
        assert (one.path / "plan.md").exists()
        assert result.ret == 0


class TestGithubSummary:
    """plan_github_summary."""

    @pytest.fixture
    def summary(self, one: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The file that GitHub Actions names; something is in it already."""
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(one.path / "summary"))
        return one.write("summary", "before\n")

    def test_it_is_appended(self, one: Project, summary: Path) -> None:
        """With the ini value and the variable the Markdown is added to what is there."""
        result = one.run("-o", "plan_github_summary=true")
        assert summary.read_text().startswith("before\n## Plan: succeeded\n")
        result.stdout.fnmatch_lines(["plan report: $GITHUB_STEP_SUMMARY"])

    def test_off_by_default(self, one: Project, summary: Path) -> None:
        """Nobody's summary is written unasked."""
        one.run("--plan-report", "plan.md")
        assert summary.read_text() == "before\n"

    def test_outside_of_github(self, one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the variable there is nothing to do and nothing to say."""
        monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        result = one.run("-o", "plan_github_summary=true")
        assert result.ret == 0
        assert "plan report" not in result.stdout.str()

"""Options from the command line, the environment and the ini file, and their errors."""

from __future__ import annotations

import re

import pytest

from tests.plugin.project import Project, refuses

INI = "[pytest]\n{} = {}\n"
PYPROJECT = "[tool.pytest.ini_options]\n{} = {}\n"
NATIVE = "[tool.pytest]\n{} = {}\n"
native = pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 9 has brought it")

STEPS = """
@pytest.mark.plan_step
def net(): note("net")

@pytest.mark.plan_step
def db(): note("db")

@pytest.mark.plan_step(needs=["db"])
def seed(): note("seed")
"""
TESTS = """
def test_settings(pytestconfig, plan):
    from pytest_plan.plugin.interface.options import settings
    for name, value in settings(pytestconfig)._asdict().items():
        note(name, value)
"""

# For each option: the winning value and two losing values, as text and in the settings.
VALUES = {
    "limit": [("90s", "90.0"), ("2m", "120.0"), ("3m", "180.0")],
    "cleanup_limit": [("90s", "90.0"), ("2m", "120.0"), ("3m", "180.0")],
    "wait": [("90s", "90.0"), ("2m", "120.0"), ("3m", "180.0")],
    "jobs": [("2", "2"), ("3", "3"), ("4", "4")],
    "until": [("net", "net"), ("db", "db"), ("seed", "seed")],
    "skip": [("net", "('net',)"), ("db", "('db',)"), ("seed", "('seed',)")],
}
FLAGS = ["continue_on_error", "overlap", "pause_on_failure"]
INI_ONLY_FLAGS = ["autouse", "eager"]


def flag(option: str) -> str:
    """Return the option in the syntax of the command line."""
    return "--plan-" + option.replace("_", "-")


def variable(option: str) -> str:
    """Return the option in the syntax of an environment variable."""
    return "PYTEST_PLAN_" + option.upper()


@pytest.fixture
def read(project: Project) -> Project:
    """A project whose only test records the settings of its run."""
    project.steps(
        "@pytest.mark.plan_step\ndef net(): pass\n\n@pytest.mark.plan_step(needs=())\n"
        "def db(): pass\n\n@pytest.mark.plan_step(needs=())\ndef seed(): pass\n"
    )
    project.tests(TESTS.replace(", plan", ""))
    return project


class TestOrder:
    """The precedence of command line, environment, ini file and default."""

    @pytest.mark.parametrize("option", VALUES)
    def test_command_line_wins(
        self, read: Project, option: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An option on the command line overrides the environment and the ini file."""
        (first, shown), (second, _), (third, _) = VALUES[option]
        monkeypatch.setenv(variable(option), second)
        read.write("pytest.ini", INI.format(f"plan_{option}", third))
        read.run(flag(option), first).assert_outcomes(passed=1)
        assert f"{option} {shown}" in read.calls

    @pytest.mark.parametrize("option", VALUES)
    def test_environment_hides_ini_file(
        self, read: Project, option: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An environment variable overrides the ini file."""
        _, (second, shown), (third, _) = VALUES[option]
        monkeypatch.setenv(variable(option), second)
        read.write("pytest.ini", INI.format(f"plan_{option}", third))
        read.run().assert_outcomes(passed=1)
        assert f"{option} {shown}" in read.calls

    @pytest.mark.parametrize("option", VALUES)
    def test_ini_file_is_read(self, read: Project, option: str) -> None:
        """The ini file is used if neither of the others has the option."""
        (first, shown), _, _ = VALUES[option]
        read.write("pytest.ini", INI.format(f"plan_{option}", first))
        read.run().assert_outcomes(passed=1)
        assert f"{option} {shown}" in read.calls

    def test_defaults(self, read: Project) -> None:
        """An option that is set nowhere has its default."""
        read.run().assert_outcomes(passed=1)
        assert set(read.calls) >= {
            "show False",
            "limit None",
            "cleanup_limit None",
            "wait 0.0",
            "jobs None",
            "continue_on_error False",
            "until None",
            "skip ()",
            "pause_on_failure False",
            f"dir {read.path / '.pytest_plan'}",
            "autouse False",
            "eager False",
        }

    @pytest.mark.parametrize("option", FLAGS)
    def test_flag_on_the_command_line_wins(
        self, read: Project, option: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A flag on the command line overrides the environment and the ini file."""
        monkeypatch.setenv(variable(option), "no")
        read.write("pytest.ini", INI.format(f"plan_{option}", "false"))
        read.run(flag(option)).assert_outcomes(passed=1)
        assert f"{option} True" in read.calls

    @pytest.mark.parametrize("option", [*FLAGS, *INI_ONLY_FLAGS])
    @pytest.mark.parametrize(
        ("in_environment", "in_ini", "wins"),
        [("0", "true", "False"), ("1", "false", "True"), (None, "yes", "True")],
    )
    def test_flag_in_environment_hides_ini_file(  # noqa: PLR0917 - the columns of the table
        self,
        read: Project,
        monkeypatch: pytest.MonkeyPatch,
        option: str,
        in_environment: str | None,
        in_ini: str,
        wins: str,
    ) -> None:
        """An environment variable can turn a flag off as well as on."""
        if in_environment is not None:
            monkeypatch.setenv(variable(option), in_environment)
        read.write("pytest.ini", INI.format(f"plan_{option}", in_ini))
        read.run().assert_outcomes(passed=1)
        assert f"{option} {wins}" in read.calls

    def test_dir_is_relative_to_rootdir(self, read: Project) -> None:
        """`plan_dir` is relative to rootdir, not to the working directory."""
        read.write("pytest.ini", INI.format("plan_dir", "build/plan"))
        read.run().assert_outcomes(passed=1)
        assert f"dir {read.path / 'build' / 'plan'}" in read.calls

    def test_skip_takes_several_names_everywhere(
        self, read: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the ini file and the environment, names are separated by spaces or commas."""
        read.write("pytest.ini", INI.format("plan_skip", "net seed"))
        read.run().assert_outcomes(passed=1)
        monkeypatch.setenv("PYTEST_PLAN_SKIP", "db,seed")
        read.run().assert_outcomes(passed=1)
        assert [call for call in read.calls if call.startswith("skip")] == [
            "skip ('net', 'seed')",
            "skip ('db', 'seed')",
        ]

    def test_limit_zero_is_no_limit(self, read: Project) -> None:
        """0 on the command line removes the limit of the ini file."""
        read.write("pytest.ini", INI.format("plan_limit", "5m"))
        read.run("--plan-limit=0").assert_outcomes(passed=1)
        assert "limit None" in read.calls

    def test_limit_of_environment_and_ini_has_effect(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`plan.remaining()` shows a limit from the environment or the ini file."""
        project.tests("def test_it(plan): note(round(plan.remaining()))")
        project.steps("@pytest.mark.plan_step\ndef db(): pass")
        project.write("pytest.ini", INI.format("plan_limit", "2m"))
        project.run()
        monkeypatch.setenv("PYTEST_PLAN_LIMIT", "3m")
        project.run()
        project.run("--plan-limit=4m")
        assert project.calls == ["120", "180", "240"]


class TestIniFiles:
    """All of pytest's ini formats."""

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("pytest.ini", INI.format("plan_limit", "5m")),
            ("tox.ini", INI.format("plan_limit", "5m")),
            ("setup.cfg", INI.replace("pytest", "tool:pytest").format("plan_limit", "5m")),
            ("pyproject.toml", PYPROJECT.format("plan_limit", '"5m"')),
            ("pyproject.toml", PYPROJECT.format("plan_limit", "300")),
            pytest.param("pyproject.toml", NATIVE.format("plan_limit", '"5m"'), marks=native),
            pytest.param("pyproject.toml", NATIVE.format("plan_limit", "300"), marks=native),
            pytest.param("pyproject.toml", NATIVE.format("plan_limit", "300.0"), marks=native),
        ],
    )
    def test_limit_is_read_from(self, read: Project, name: str, text: str) -> None:
        """A limit can be text or, in TOML, a number."""
        read.write(name, text)
        read.run().assert_outcomes(passed=1)
        assert "limit 300.0" in read.calls

    @pytest.mark.parametrize("form", [PYPROJECT, pytest.param(NATIVE, marks=native)])
    def test_toml_values_have_their_types(self, read: Project, form: str) -> None:
        """Numbers, booleans and lists are read from native TOML values."""
        lines = "plan_jobs = 3\nplan_continue_on_error = true\nplan_skip = ['net', 'db']"
        read.write("pyproject.toml", form.format("plan_autouse", "true") + lines)
        read.run().assert_outcomes(skipped=1)
        read.write("pyproject.toml", form.format("plan_autouse", "false") + lines)
        read.run().assert_outcomes(passed=1)
        for line in ("jobs 3", "continue_on_error True", "skip ('net', 'db')"):
            assert line in read.calls


BAD = {
    "limit": ["soon", "-5m", ""],
    "cleanup_limit": ["soon", "-5m", "0"],
    "jobs": ["many", "0", "-2", "1.5"],
}
BAD_CASES = [(option, value) for option, values in BAD.items() for value in values]


class TestBadValues:
    """A bad value is a usage error that names its source, and nothing runs."""

    @pytest.mark.parametrize(("option", "value"), BAD_CASES)
    def test_on_the_command_line(self, read: Project, option: str, value: str) -> None:
        """The message for a bad value on the command line names the flag."""
        refuses(read.run(f"{flag(option)}={value}"), f"{flag(option)}:", repr(value))
        assert read.calls == []

    @pytest.mark.parametrize(("option", "value"), [case for case in BAD_CASES if case[1]])
    def test_in_the_environment(
        self, read: Project, monkeypatch: pytest.MonkeyPatch, option: str, value: str
    ) -> None:
        """The message for a bad value in the environment names the variable."""
        monkeypatch.setenv(variable(option), value)
        refuses(read.run(), f"environment variable {variable(option)}:", repr(value))
        assert read.calls == []

    @pytest.mark.parametrize(("option", "value"), [case for case in BAD_CASES if case[1]])
    def test_in_the_ini_file(self, read: Project, option: str, value: str) -> None:
        """The message for a bad value in an ini file names the option and the file."""
        read.write("pytest.ini", INI.format(f"plan_{option}", value))
        refuses(read.run(), f"plan_{option} in pytest.ini:", repr(value))
        assert read.calls == []

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("plan_limit = -5", ["plan_limit in pyproject.toml", "-5"]),
            ("plan_limit = true", ["plan_limit"]),
            ("plan_jobs = 1.5", ["plan_jobs in pyproject.toml", "1.5"]),
            ("plan_jobs = 0", ["plan_jobs in pyproject.toml", "0"]),
            ("plan_continue_on_error = 'maybe'", ["plan_continue_on_error", "maybe"]),
            ("plan_dir = 3", ["plan_dir", "3"]),
            ("plan_until = 3", ["plan_until", "3"]),
            ("plan_skip = 3", ["plan_skip", "3"]),
        ],
    )
    @native
    def test_in_native_toml(self, read: Project, line: str, says: list[str]) -> None:
        """Native TOML values of a wrong type or size are refused."""
        read.write("pyproject.toml", f"[tool.pytest]\n{line}\n")
        refuses(read.run(), *says)
        assert read.calls == []

    @pytest.mark.parametrize("option", [*FLAGS, "show", *INI_ONLY_FLAGS])
    def test_flag_in_the_environment(
        self, read: Project, monkeypatch: pytest.MonkeyPatch, option: str
    ) -> None:
        """A flag in the environment that is neither true nor false is refused."""
        monkeypatch.setenv(variable(option), "maybe")
        refuses(read.run(), f"environment variable {variable(option)}:", "'maybe'")

    @pytest.mark.parametrize("option", [*FLAGS, *INI_ONLY_FLAGS])
    def test_flag_in_the_ini_file(self, read: Project, option: str) -> None:
        """A flag in the ini file that is neither true nor false is refused by its name."""
        read.write("pytest.ini", INI.format(f"plan_{option}", "maybe"))
        refuses(read.run(), f"plan_{option}", "maybe")

    def test_without_any_step(self, project: Project) -> None:
        """A bad value is refused even if the project has no steps."""
        project.tests("def test_it(): note('test')")
        refuses(project.run("--plan-limit=soon"), "--plan-limit:", "'soon'")
        assert project.calls == []


class TestHelp:
    """The output of `--help` and `--markers`."""

    def test_help_lists_options_and_ini_values(self, project: Project) -> None:
        """`--help` lists every option in our group and every ini value in pytest's list."""
        text = project.run("--help").stdout.str()
        for name in ("show", "limit", "cleanup_limit", "jobs", "continue_on_error", "until",
                     "skip", "pause_on_failure"):  # fmt: skip
            assert len(re.findall(rf"  {flag(name)}\b(?!-)", text)) == 1
        for name in ("limit", "cleanup_limit", "jobs", "continue_on_error", "until", "skip",
                     "pause_on_failure", "dir", "autouse", "eager"):  # fmt: skip
            assert f"  plan_{name} " in text

    def test_no_option_has_an_optional_value(self, project: Project) -> None:
        """No option takes an optional value, so in `--plan-show tests` `tests` is a folder."""
        project.steps(STEPS)
        project.tests("def test_it(seed): pass", name="tests/test_it.py")
        project.run("--plan-show", "tests").stdout.fnmatch_lines(["*1 test needs seed:"])

    def test_marks_are_listed(self, project: Project) -> None:
        """`--markers` explains both marks."""
        project.run("--markers").stdout.fnmatch_lines(
            ["@pytest.mark.plan_step(...): *", "@pytest.mark.plan(*steps): *"]
        )

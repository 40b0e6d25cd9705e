"""Every option of the command line, the environment and the ini file."""

# Annotations are not postponed: a NamedTuple would compile each of them.
from typing import NamedTuple

from pytest_plan.plugin.interface.values import REPORT_ENDINGS, Kind


class Option(NamedTuple):
    """One option: `--plan-NAME`, `PYTEST_PLAN_NAME`, `plan_name`.

    Attributes:
        in_command_line: whether it can be given on the command line.
        is_command: whether it is a command, which can be given on the command line only.
        typed: the option as it is typed, if an ini value with another meaning has its name.
    """

    name: str
    kind: Kind
    help: str
    metavar: str | None = None
    in_command_line: bool = True
    is_command: bool = False
    typed: str | None = None

    @property
    def dest(self) -> str:
        """The name by which argparse and the ini file know it."""
        return f"plan_{self.name}"

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return self.typed or f"--{self.dest.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"PYTEST_{self.dest.upper()}"


OPTIONS = (
    Option("show", Kind.FLAG, "Show the plan and which tests need which steps; run nothing"),
    Option(
        "limit",
        Kind.DURATION,
        "Maximum total time for provisioning and tests; 0 means no limit (default: no limit)",
        "DURATION",
    ),
    Option(
        "cleanup_limit",
        Kind.LONGER_THAN_ZERO,
        "Maximum total time for cleanup (default: 5m)",
        "DURATION",
    ),
    Option(
        "host",
        Kind.HOST,
        "Address of this machine under which workers on other machines reach what steps start "
        "(default: 127.0.0.1)",
        "ADDRESS",
    ),
    Option("jobs", Kind.COUNT, "Maximum number of steps to run in parallel (default: 8)", "N"),
    Option(
        "continue_on_error",
        Kind.FLAG,
        "After a failed step, continue with all steps and tests that do not need it",
    ),
    Option(
        "overlap",
        Kind.FLAG,
        "With workers (-n): begin each test as soon as the steps that it needs have succeeded, "
        "while other steps are still running",
    ),
    Option(
        "until",
        Kind.NAME,
        "Run only this step and the steps it needs; skip tests that need other steps",
        "STEP",
    ),
    Option(
        "skip",
        Kind.NAMES,
        "Skip this step, and all steps and tests that need it. Can be specified multiple times.",
        "STEP",
    ),
    Option(
        "keep",
        Kind.KEEP,
        "When to keep the environment after the run: 'never', 'failed' (after any failure, a "
        "timeout or a signal) or 'always' (default: never; with --plan-reuse: always)",
        "WHEN",
    ),
    Option("reuse", Kind.FLAG, "Reuse the environment kept by an earlier run, and keep it again"),
    Option(
        "cleanup",
        Kind.FLAG,
        "Clean up the environments of earlier runs, or the one that --plan-environment names; run "
        "no tests",
    ),
    Option(
        "up",
        Kind.FLAG,
        "Provision the steps that the selected tests need, or --plan-until names, and keep them; "
        "run no tests. With --plan-share, provide them to other runs until --plan-down or Ctrl-C",
        is_command=True,
    ),
    Option(
        "until_unused",
        Kind.LONGER_THAN_ZERO,
        "With --plan-up and --plan-share, clean up once no run has used the environment for this "
        "long (default: never)",
        "DURATION",
        is_command=True,
    ),
    Option(
        "export",
        Kind.FLAG,
        "With --plan-up, print the environment variables that steps have set as shell commands: "
        'eval "$(pytest --plan-up --plan-export)"',
        is_command=True,
    ),
    Option(
        "down",
        Kind.FLAG,
        "Clean up the environment 'default', or the one that --plan-environment names, and no "
        "other; run no tests. With --plan-share, wait until no run uses it any more",
        is_command=True,
    ),
    Option(
        "print_logs",
        Kind.NAMES,
        "Print the log of this step of a kept environment, and with --plan-follow what is added to "
        "it until Ctrl-C; run no tests. Can be specified multiple times.",
        "STEP",
        is_command=True,
        typed="--plan-logs",
    ),
    Option(
        "forget",
        Kind.NAMES,
        "End the programs of this step of an earlier run and remove its record, without any other "
        "cleanup; run no tests. Can be specified multiple times.",
        "STEP",
        is_command=True,
    ),
    Option(
        "status",
        Kind.FLAG,
        "Show the environments of this project, or the one that --plan-environment names, and "
        "whether the programs of their steps are running; run no tests",
        is_command=True,
    ),
    Option(
        "init",
        Kind.FLAG,
        "Write an example to start from: a conftest.py with two steps, and tests that use them, in "
        "the given folder, or else in that of the tests; run no tests",
        is_command=True,
    ),
    Option(
        "doctor",
        Kind.FLAG,
        "Check the setup, and print the result as a block to paste into an issue; run no tests",
        is_command=True,
    ),
    Option("json", Kind.FLAG, "With --plan-status, print JSON", is_command=True),
    Option(
        "environment",
        Kind.ENVIRONMENT,
        "Name of the environment to keep, reuse, clean up, change or show (default: 'default')",
        "NAME",
    ),
    Option(
        "wait",
        Kind.DURATION,
        "Maximum time to wait while another process uses the environment (default: 0, do not wait)",
        "DURATION",
    ),
    Option(
        "share",
        Kind.NAME,
        "Share one environment with other runs: 'local' for those of this machine, or the URL of a "
        "Redis or PostgreSQL server (redis://HOST:PORT, postgresql://USER@HOST:PORT/DATABASE)",
        "URL",
    ),
    Option(
        "share_steps",
        Kind.NAMES,
        "With --plan-share, provision this step and those it needs instead of all steps. Can be "
        "specified multiple times.",
        "STEP",
    ),
    Option(
        "share_runs",
        Kind.COUNT,
        "With --plan-share, the number of runs that must have joined before the environment is "
        "cleaned up (default: the number of parallel jobs in GitLab CI and Buildkite)",
        "N",
    ),
    Option(
        "share_wait",
        Kind.DURATION,
        "With --plan-share, the maximum time for which the environment stays for other runs after "
        "the tests of the run that has provisioned it (default: no limit)",
        "DURATION",
    ),
    Option(
        "share_lease",
        Kind.LONGER_THAN_ZERO,
        "With --plan-share, how long a run that does not answer is taken to be alive (default: "
        "60s, at least 1s)",
        in_command_line=False,
    ),
    Option(
        "reaper",
        Kind.FLAG,
        "Start the reaper, a process that cleans up if pytest is killed (default: true)",
        in_command_line=False,
    ),
    Option(
        "report",
        Kind.REPORTS,
        f"Write a report of the run; the file name ends in {', '.join(REPORT_ENDINGS[:-1])} or "
        f"{REPORT_ENDINGS[-1]}. Can be specified multiple times.",
        "PATH",
    ),
    Option(
        "ci",
        Kind.FLAG,
        "In GitHub Actions, write annotations and a job summary; in GitLab CI, fold what the plan "
        "prints (default: true)",
        in_command_line=False,
    ),
    Option(
        "github_summary",
        Kind.FLAG,
        "Add the report to the job summary ($GITHUB_STEP_SUMMARY; default: in GitHub Actions)",
        in_command_line=False,
    ),
    Option(
        "logs",
        Kind.KEEP,
        "When the report of a test shows what the logs of the steps it needs have gained: 'failed' "
        "(if the test fails), 'always' or 'never' (default: failed)",
        in_command_line=False,
    ),
    Option(
        "follow",
        Kind.NAMES,
        "Print the log of this step as it grows. Can be specified multiple times.",
        "STEP",
    ),
    Option(
        "pause_on_failure",
        Kind.FLAG,
        "Wait for Enter after a failed step, before its cleanup (requires a terminal)",
    ),
    Option(
        "history",
        Kind.FLAG,
        "Show how the last runs of each step went; run no tests",
        is_command=True,
    ),
    Option(
        "record_history",
        Kind.FLAG,
        "Record how the steps went, for --plan-history (default: true)",
        in_command_line=False,
    ),
    Option(
        "dir",
        Kind.NAME,
        "Folder for journals, artifacts, history, relative to rootdir (default: .pytest_plan)",
        in_command_line=False,
    ),
    Option("autouse", Kind.FLAG, "Make every test need every step", in_command_line=False),
    Option(
        "eager",
        Kind.FLAG,
        "Provision every step of the initial conftests before collection",
        in_command_line=False,
    ),
    Option(
        "signals",
        Kind.FLAG,
        "Handle SIGINT, SIGTERM and SIGHUP: stop and clean up (default: true)",
        in_command_line=False,
    ),
)

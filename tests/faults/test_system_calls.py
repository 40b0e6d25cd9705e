"""Rows 36 to 39: system calls of the journal and the reaper fail, by means of strace."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.harness.aftermath import NO_REAPER, PLAIN, clean_up, deeds, environments
from tests.faults.harness.scenario import Run, Stage, Story, Tally

NAMED = ("--plan-environment=disk", *NO_REAPER)
ENDINGS = ("", "-wal", "-shm")
PHASES = {"made": ".new", "written": ""}  # the suffix of the journal's name in each phase
# The errors for each call, once or (with a plus sign) from then on, as on a full disk.
WRITES = {"pwrite64": ("ENOSPC:when={}+", "EIO:when={}", "EINTR:when={}")}
OTHERS = {
    "fdatasync": ("EIO:when={}", "EINTR:when={}"),
    "openat": ("EROFS:when={}+", "EMFILE:when={}"),
    "rename": ("EIO:when={}",),
    "ftruncate": ("ENOSPC:when={}",),
    "mmap": ("ENOMEM:when={}",),
    "pread64": ("EIO:when={}+",),
    "unlink": ("EIO:when={}+",),
}
REASONS = r"journal \S+ cannot be (created|written|opened for writing): "


@functools.cache
def missing() -> str:
    """Return why system calls cannot be made to fail here; empty if they can."""
    if (strace := shutil.which("strace")) is None:
        return "strace is not installed"
    argv = [strace, "-D", "-f", "--seccomp-bpf", "-o", "/dev/null"]
    argv += ["-e", "trace=openat", "-e", "inject=openat:error=EIO:when=500", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return f"strace cannot trace: {done.stderr}" if done.returncode else ""


needs_strace = pytest.mark.skipif("missing()", reason="needs strace, and leave to trace")


def traced(run: Run, calls: str, *inject: str, files: Sequence[Path] = ()) -> list[str]:
    """Return the command under which Python's calls on these files are traced."""
    paths = [part for file in files for part in ("-P", str(file))]
    faults = [part for fault in inject for part in ("-e", f"inject={fault}")]
    log = str(run.folder / "strace")
    # -D: pytest stays the direct child of the process that starts it.
    return [
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-o",
        log,
        "-e",
        f"trace={calls}",
        *faults,
        *paths,
    ]


def files_of(run: Run, phase: str) -> list[Path]:
    """Return the files of the journal while it is being created (`made`) or written."""
    folder = run.project / ".pytest_plan" / "environments" / "disk"
    return [folder / f"journal.sqlite{PHASES[phase]}{ending}" for ending in ENDINGS]


def log_of(run: Run) -> str:
    """Return the log of strace."""
    return (run.folder / "strace").read_text(errors="replace")


def counted(tally: Tally, phase: str, calls: Sequence[str]) -> Counter[str]:
    """Return how often a single thread makes each call in a run without faults, at most."""
    stage, most = Stage(tally), Counter[str]()

    def story(run: Run) -> Story:
        run.start(*NAMED, under=traced(run, ",".join(calls), files=files_of(run, phase)))
        yield run.ended
        run.judge(0)
        by_thread = Counter(re.findall(r"^(\d+) +(\w+)\(", log_of(run), re.MULTILINE))
        for (_, call), count in by_thread.items():
            most[call] = max(most[call], count)

    stage.add("counting", story)
    stage.play()
    return most


def fails(run: Run, phase: str, fault: str, injected: list[str]) -> Story:
    """Let a call fail: the run must give the reason, clean up, and leave no broken journal."""
    under = traced(run, fault.partition(":")[0], fault, files=files_of(run, phase))
    run.start(*NAMED, argv=PLAIN, under=under)
    yield run.ended
    if "(INJECTED)" in log_of(run):
        injected.append(fault)
        run._tally.faults += 1
    run.judge()
    text = run.output()
    run.expect(run.status in (0, 1, 4), f"exit status {run.status}")
    run.expect(run.status == 0 or re.search(REASONS, text), "the reason is missing")
    run.expect("Traceback" not in text, "a traceback")
    run.expect(not re.search(r"\bpytest_plan/(engine|plugin)/", text), "a line of ours")
    before = deeds(run)
    if any((folder / "journal.sqlite").exists() for folder in environments(run)):
        run.expect(clean_up(run) == 0, "something is left")
    run.expect(deeds(run) == before, "something was cleaned up twice")


@needs_strace
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("faults", [WRITES, OTHERS], ids=["writes", "others"])
def test_g1_any_system_call_may_fail(
    stage: Stage, tally: Tally, phase: str, faults: dict[str, tuple[str, ...]]
) -> None:
    """Rows 36, 37: if a call fails, the run stops, gives the reason and cleans up."""
    injected: list[str] = []
    for call, count in counted(tally, phase, list(faults)).items():
        for n in range(1, count + 1):
            error = faults[call][n % len(faults[call])].format(n)
            fault = f"{call}:error={error}"
            stage.add(fault, fails, phase, fault, injected)
    planned = len(stage._waiting)
    stage.play(2)
    assert len(injected) > 0.8 * planned


# One step without a program, so that only our own calls fail, and only before it begins.
FEW_FILES = """
import os
import resource
from tests.faults.harness.fakes import Fake, note, watch_exit

watch_exit()
USUAL = resource.getrlimit(resource.RLIMIT_NOFILE)

class Net(Fake):
    def pre_exec(self, ctx):
        resource.setrlimit(resource.RLIMIT_NOFILE, USUAL)
        super().pre_exec(ctx)

def pytest_plan_configure(plan):
    plan.add_step(Net(), name="net")

def pytest_collection_finish():
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(os.environ["FILES"]), USUAL[1]))

def pytest_unconfigure():
    resource.setrlimit(resource.RLIMIT_NOFILE, USUAL)
"""
ONE_STEP = FEW_FILES.partition("\ndef pytest_collection_finish")[0]
ONE_TEST = "def test_it(net):\n    pass\n"
MOST_FILES = 16  # more file descriptors than the journal and the reaper need
UNPROTECTED = "the reaper cannot be started"


def small(run: Run, conftest: str) -> None:
    """Give the project one step and one test."""
    run.write("conftest.py", conftest)
    run.write("test_it.py", ONE_TEST)


def judge_small(run: Run) -> None:
    """Check what must hold whatever has failed before the step or in the reaper."""
    run.judge()
    text = run.output()
    begun = run.notes("begin")
    run.expect(begun or run.status in (1, 4), f"exit status {run.status}")
    run.expect(begun or re.search(r"^(ERROR|E  )", text, re.MULTILINE), "it is not said why")
    run.expect(not begun or run.status == 0, f"exit status {run.status}")
    run.expect("Traceback" not in text, "a traceback")
    run.expect(not re.search(r"\bpytest_plan/(engine|plugin)/", text), "a line of ours")


def test_g1_without_file_descriptors_nothing_begins_or_a_warning_says_so(stage: Stage) -> None:
    """Row 38: the run fails before its first step, warns that it has no reaper, or is normal."""
    ends: list[str] = []

    def story(run: Run, files: int) -> Story:
        small(run, FEW_FILES)
        run.start(argv=PLAIN, env={"FILES": str(files)})
        yield run.ended
        run._tally.faults += 1
        judge_small(run)
        is_protected = UNPROTECTED not in run.output()
        ends.append("refused" if run.status else "protected" if is_protected else "unprotected")

    for files in range(1, MOST_FILES):
        stage.add(f"{files} more", story, files)
    stage.play(2)
    assert set(ends) == {"refused", "unprotected", "protected"}


@needs_strace
@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])
def test_g8_without_a_process_for_the_reaper_the_run_goes_on(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Row 39: a reaper that cannot be started is reported, and the owner cleans up itself."""

    def story(run: Run) -> Story:
        small(run, ONE_STEP)
        # Each worker forks before the reaper does. Where Python cannot use vfork, it uses clone.
        faults = (f"vfork:error=EAGAIN:when={1 + len(args)}", "clone:error=EAGAIN:when=1")
        under = traced(run, "vfork,clone", *faults)
        run.start(*args, argv=PLAIN, under=under)
        yield run.ended
        run._tally.faults += 1
        run.expect("(INJECTED)" in log_of(run), "nothing was injected")
        judge_small(run)
        run.expect(run.status == 0, f"exit status {run.status}")
        run.expect(UNPROTECTED in run.output(), "it is not said")
        run.expect(run.notes("cleanup") == ["net"], "it was not cleaned up")

    stage.add("EAGAIN", story)
    stage.play()

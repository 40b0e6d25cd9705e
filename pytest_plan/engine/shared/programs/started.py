"""The programs that steps have started, with all that is needed to start them again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.processes.addresses import LOOPBACK
from pytest_plan.engine.processes.identity import Identity
from pytest_plan.engine.processes.listeners import Stranger, addresses_of, foreign_listeners
from pytest_plan.engine.processes.marks import Marks
from pytest_plan.engine.processes.orphan import KeptProcess
from pytest_plan.engine.processes.process import Process, ProgramFiles, content, spawn
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target


class Command(NamedTuple):
    """How to start a program.

    Attributes:
        argv: the program and its arguments.
        env: the environment variables to add; a value of None removes a variable.
        clean_env: whether the program gets only the variables in `env`.
        cwd: its working directory; None means that of this process.
        user: the user to run it as; None means the current user.
        group: the group to run it as; None means the primary group of `user`.
        stop_signal: the signal that asks it to stop.
        grace: the seconds that it may take to stop.
        watch: whether it must keep running.
    """

    argv: Sequence[str]
    env: Mapping[str, str | None] | None = None
    clean_env: bool = False
    cwd: str | os.PathLike[str] | None = None
    user: str | int | None = None
    group: str | int | None = None
    stop_signal: int = 15
    grace: float = 10.0
    watch: bool = True

    @property
    def name(self) -> str:
        """The name of the executable."""
        return Path(self.argv[0]).name


class Place(NamedTuple):
    """Where a program runs; the same for every start of it.

    Attributes:
        env: all its environment variables.
        cwd: its working directory; None means that of this process, which no longer exists.
    """

    env: Mapping[str, str]
    cwd: str | os.PathLike[str] | None


class Started(Target):
    """A program that a step has started, or the process that has replaced it.

    All its processes carry the same marks, so that one entry in the journal covers them.

    Args:
        command: how to start it.
        place: where it runs.
        marks: the marks of its process tree.
        number: the number of the tree in the journal; None if the journal has no record of it.
        log: the log of its step.

    Attributes:
        place: where it runs.
        process: the process that is running, or that ran last.
        position: where its output begins in the log of the step.
        condition: the condition that it must meet after it was started again; None means that it
            must listen where it listened before.
        timeout: the seconds that it may take to become ready; None means no limit of its own.
        is_stopped: whether a test has stopped it, and it is not running and ready again.
        is_over: whether a cleanup has ended it, so that it must not be started again.
        listened: where it was seen to listen.
        refusal: why it cannot be started again; None if it can.
    """

    process: Process | KeptProcess

    def __init__(
        self, command: Command, place: Place, marks: Marks, number: int | None, log: StepLog
    ) -> None:
        self.name = repr(command.name)
        self.host = LOOPBACK
        self.ports: Mapping[str, int] = {}
        self.value: object = None
        self.command = command
        self.marks = marks
        self.number = number
        self.position = 0
        self.condition: Condition | None = None
        self.timeout: float | None = None
        self.is_stopped: bool = False
        self.is_over: bool = False
        self.listened: frozenset[str] = frozenset()
        self.refusal: str | None = None
        self.place = place
        self._log = log
        self._output = bytearray()

    def spawn(self) -> Process:
        """Start the program, and return its process.

        Raises:
            OSError: the program cannot be started, or the log cannot be written.
            KeyError: the system does not know the user or the group.
        """
        command = self.command
        with self._log.open_for_program() as output:
            self.position, self._output = output.seek(0, os.SEEK_END), bytearray()
            self.process = process = spawn(
                command.argv, output=output, errors=subprocess.STDOUT, env=self.place.env,
                cwd=self.place.cwd, user=command.user, group=command.group, marks=self.marks,
            )  # fmt: skip
        process.may_end = not command.watch
        return process

    @property
    def first_process(self) -> Process:
        """The process of the last start, which this run has made."""
        assert isinstance(self.process, Process)
        return self.process

    def is_running(self) -> bool:
        """Return whether any process of its tree is running."""
        process = self.process
        if isinstance(process, Process) and process.status() is None:
            return True
        return bool(process.members())

    def failure(self) -> str | None:
        """Return why it cannot become ready, if a test starts it again and it has ended.

        The wait of a step finds out by itself.
        """
        status = self.process.status()
        if not self.is_stopped or status is None or self.process.members():
            return None
        return f"{self.name} exited with status {status} when it was started again"

    def note_listened(self) -> None:
        """Note where it listens now, for a later start."""
        self.listened |= set(self.addresses())

    def addresses(self) -> list[str]:
        """Return where it listens: `HOST:PORT` for TCP, the path of a Unix socket."""
        return addresses_of(member.pid for member in self.process.members())

    def strangers(self, ports: Collection[int]) -> list[Stranger]:
        """Return the processes that answer on `ports` of its host while the tree does not."""

        def pids() -> list[int]:
            return [member.pid for member in self.process.members()]

        def is_ours(pid: int) -> bool:
            return self.marks.are_on(pid) or pid in pids()

        return foreign_listeners(ports, pids, is_ours, self.host)

    def members(self) -> list[Identity]:
        """Return the running processes of its tree."""
        return self.process.members()

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """End it for good; see `Process.end`."""
        # A start on another thread looks at this once its process is here, and ends it.
        self.is_over = True
        self.process.end(clock, number, grace)

    def output(self) -> str:
        """Return the lines of the log since the program was started, without its command."""
        self._output += self._log.written_since(self.position + len(self._output))
        return self._output.decode("utf-8", "replace")

    def run(self, argv: Sequence[str], timeout: float) -> tuple[int, str]:
        """Run a program with the environment of this one; see `Target.run`."""
        with ProgramFiles(None) as (_, output, errors):
            process = spawn(
                argv, output=output, errors=errors, env=self.place.env, cwd=self.place.cwd,
                user=self.command.user, group=self.command.group, marks=self.marks,
            )  # fmt: skip
            try:
                status = process.wait(timeout)
            except BaseException:
                # Its marks are those of the whole tree, of which only this session must end.
                process.kill_group()
                raise
            return status, content(output) + content(errors)


class Listening(Condition):
    """The condition that a program listens again wherever it has listened before."""

    def check(self, target: Target, timeout: float) -> None:
        """Look where it listens; see `Condition.check`."""
        assert isinstance(target, Started)
        missing = target.listened.difference(target.addresses())
        if missing:
            raise NotReadyError(f"it does not listen on {', '.join(sorted(missing))} yet")

"""The log of a step."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from pytest_plan.engine.model.secret import Masker, Secret
from pytest_plan.engine.shared.folders import RunFolders
from pytest_plan.engine.shared.log import StepLog, current_log
from tests.engine.support.steps import Background


@pytest.fixture
def masker() -> Masker:
    """A masker without secrets."""
    return Masker()


@pytest.fixture
def log(tmp_path: Path, masker: Masker) -> StepLog:
    """An empty log."""
    return StepLog("db", RunFolders(lambda: tmp_path), masker)


def test_there_is_no_file_before_the_first_line(log: StepLog, tmp_path: Path) -> None:
    """A step that writes nothing creates no file."""
    assert log.tail() == ""
    assert list(tmp_path.iterdir()) == []


def test_its_file_is_for_its_owner_alone(log: StepLog, tmp_path: Path) -> None:
    """The file and its folder are private, because a log may hold secrets."""
    log.write("text\n")
    assert log.path == tmp_path / "db" / "log.txt"
    assert log.path.stat().st_mode & 0o777 == 0o600
    assert log.path.parent.stat().st_mode & 0o777 == 0o700


def test_text_is_appended_as_it_is(log: StepLog) -> None:
    """No line ends are added."""
    log.write("one ")
    log.write("line\nanother")
    assert log.path.read_text() == "one line\nanother"


def test_the_tail_is_the_last_lines(log: StepLog) -> None:
    """It has 30 lines, or as many as the caller asks for."""
    log.write("".join(f"{number}\n" for number in range(100)))
    assert log.tail().splitlines() == [str(number) for number in range(70, 100)]
    assert log.tail(2) == "98\n99"


def test_the_tail_of_a_huge_log_is_short(log: StepLog) -> None:
    """A single line of a million characters is cut as well."""
    log.write("x" * 1_000_000)
    assert len(log.tail()) <= 64 * 1024


def test_the_tail_reads_what_programs_write(log: StepLog) -> None:
    r"""Invalid UTF-8 is replaced, and Windows line ends become `\n`."""
    log.path.write_bytes(b"one\r\ntwo \xff\r\n")
    assert log.tail() == "one\ntwo \N{REPLACEMENT CHARACTER}"


def test_secrets_are_masked_when_written_and_when_read(log: StepLog, masker: Masker) -> None:
    """A secret is masked even if a program wrote it before it was known."""
    log.path.write_text("hunter2 of a program\n")
    masker.learn(Secret("hunter2"))
    log.write("hunter2 of ours\n")
    assert log.tail() == "*** of a program\n*** of ours"
    assert log.path.read_text().endswith("*** of ours\n")


def test_what_cannot_be_encoded_is_escaped(log: StepLog) -> None:
    """A lone surrogate is no error."""
    log.write("\udcff\n")
    assert log.tail() == "\\udcff"


def test_lines_of_several_threads_stay_whole(log: StepLog) -> None:
    """Each write is a single append."""

    def write(letter: str) -> None:
        for _ in range(100):
            log.write(letter * 50 + "\n")

    for thread in [Background(functools.partial(write, letter)) for letter in "abcd"]:
        thread.result()
    lines = log.path.read_text().splitlines()
    assert sorted(lines) == sorted(letter * 50 for letter in "abcd" for _ in range(100))


@pytest.mark.parametrize("first", ["", "before\n"], ids=["nothing before", "a line before"])
def test_after_the_run_nothing_is_written(masker: Masker, first: str) -> None:
    """A late line of an abandoned step is dropped, and no folder is created."""
    folders = RunFolders()
    log = StepLog("db", folders, masker)
    if first:
        log.write(first)
    root = folders.scratch("db").parent
    folders.remove()
    log.write("late\n")
    assert not root.exists()


def test_a_file_that_cannot_be_written_is_an_error_during_the_run(
    log: StepLog, tmp_path: Path
) -> None:
    """Lines are not lost silently."""
    log.write("one\n")
    log.path.unlink()
    log.path.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        log.write("two\n")


def test_outside_of_steps_there_is_no_current_log() -> None:
    """The output of a test never goes to a step's log."""
    assert current_log.get() is None

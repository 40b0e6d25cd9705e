"""The log of a step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_plan.engine.model.secret import Masker, Secret
from pytest_plan.engine.shared.folders import RunFolders
from pytest_plan.engine.shared.log import StepLog, current_log
from pytest_plan.engine.shared.program_log import Copies, Gain, next_lines
from tests.engine.support.steps import Background


@pytest.fixture
def masker() -> Masker:
    """A masker without secrets."""
    return Masker()


@pytest.fixture
def copies() -> Copies:
    """The copies of a run without logs."""
    return Copies()


@pytest.fixture
def log(tmp_path: Path, masker: Masker, copies: Copies) -> Iterator[StepLog]:
    """An empty log."""
    folders = RunFolders(lambda: tmp_path)
    yield StepLog("db", folders, masker, copies)
    copies.close()
    folders.remove()


def append(log: StepLog, data: bytes) -> None:
    """Write to the private file, as a program does."""
    with log.open_for_program() as file:
        file.write(data)


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


def test_text_is_appended_as_it_is(log: StepLog, copies: Copies) -> None:
    """No line ends are added. A line without its end comes at the end of the run."""
    log.write("one ")
    log.write("line\nanother")
    assert log.path.read_text() == "one line\n"
    assert log.tail() == "one line\nanother"
    copies.close()
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
    append(log, b"one\r\ntwo \xff\r\n")
    assert log.tail() == "one\ntwo \N{REPLACEMENT CHARACTER}"


def test_secrets_are_masked_in_all_that_is_written(log: StepLog, masker: Masker) -> None:
    """A secret is masked even if it was written before it was known: the copy is made anew."""
    append(log, b"hunter2 of a program\n")
    log.write("hunter2 of ours\n")
    assert log.path.read_text() == "hunter2 of a program\nhunter2 of ours\n"
    masker.learn(Secret("hunter2"))
    assert log.tail() == "*** of a program\n*** of ours"
    log.write("hunter2 again\n")
    assert log.path.read_text() == "*** of a program\n*** of ours\n*** again\n"


@pytest.mark.parametrize("first", range(1, 7))
def test_a_secret_in_two_pieces_is_masked(log: StepLog, masker: Masker, first: int) -> None:
    """Neither a program that writes in pieces nor `print` without an end shows a part of it."""
    masker.learn(Secret("hunter2"))
    for write in (lambda text: append(log, text.encode()), log.write):
        write("hunter2"[:first])
        log.tick()
        assert "hunt" not in log.path.read_text() + log.tail()
        write("hunter2"[first:] + "\n")
        log.update()
        assert log.path.read_text().endswith("***\n")
    assert log.tail() == "***\n***"


def test_a_line_without_its_end_waits(log: StepLog, masker: Masker) -> None:
    """After some updates it is in the file, but for as much as a secret may take."""
    masker.learn(Secret("hunter2"))
    append(log, b"a prompt: hunter2 and " + b"." * max(map(len, masker.forms)))
    log.update()
    assert log.path.read_text() == ""
    for _ in range(5):
        log.tick()
    assert log.path.read_text() == "a prompt: *** and "


@pytest.mark.parametrize("shift", [0, 1, 5, 6, 7, 8])
def test_a_secret_across_the_end_of_a_chunk_is_masked(
    log: StepLog, masker: Masker, shift: int
) -> None:
    """A line that is longer than what is read at once is copied in parts."""
    masker.learn(Secret("hunter2"))
    append(log, b"x" * (1024 * 1024 - shift) + b"hunter2" + b"y" * 2_000_000 + b"hunter2\n")
    log.update()
    text = log.path.read_text()
    assert text.count("***") == 2
    assert text.strip("xy\n") == "***" + "y" * 2_000_000 + "***"


def test_the_private_file_is_for_its_owner_alone(log: StepLog) -> None:
    """Its folder, too: another user may enter the folder around it."""
    with log.open_for_program() as file:
        path = Path(file.name)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_encoded_is_escaped(log: StepLog) -> None:
    """A lone surrogate is no error."""
    log.write("\udcff\n")
    assert log.tail() == "\\udcff"


def test_lines_of_several_threads_stay_whole(log: StepLog) -> None:
    """Each write is a single append, to the private file."""

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
    log = StepLog("db", folders, masker, Copies())
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


def test_nothing_is_gained_before_the_first_line(log: StepLog) -> None:
    """The mark of a log that does not exist is 0, and all that comes later is gained."""
    mark = log.mark()
    assert (mark, log.gained(mark)) == (0, Gain())
    log.write("one\n")
    assert log.gained(mark) == Gain("one\n", 4)
    assert log.gained(log.mark()) == Gain(mark=4)


def test_gained_is_what_came_after_the_mark(log: StepLog) -> None:
    """Of ours and of programs, also a line without its end; the copy need not be up to date."""
    log.write("before\n")
    mark = log.mark()
    append(log, b"of a program\r\n")
    log.write("of ours\n")
    append(log, b"a prompt: \xff")
    found = log.gained(mark)
    assert found.text == "of a program\r\nof ours\na prompt: \N{REPLACEMENT CHARACTER}"
    assert not found.is_cut
    append(log, b" yes\n")
    assert log.gained(found.mark).text == "a prompt: \N{REPLACEMENT CHARACTER} yes\n"


@pytest.mark.parametrize("before", range(8))
@pytest.mark.parametrize("after", range(8))
def test_a_secret_across_a_mark_is_masked(
    log: StepLog, masker: Masker, before: int, after: int
) -> None:
    """Neither the rest of a secret that began before, nor the beginning of one is shown."""
    masker.learn(Secret("hunter2\nhunter3"))
    line = b"x" * 5000  # so long that it is not shown as a whole
    append(log, line + b"hunter2\nhunter3"[: 4 + before])
    mark = log.mark()
    append(log, b"hunter2\nhunter3"[4 + before :] + b" and\n" + b"hunter2\nhunter3"[: 4 + after])
    text = log.gained(mark).text
    assert "unter" not in text.replace("***", "")
    assert text.startswith("***")
    assert text.count(" and\n") == 1


def test_a_huge_gain_is_cut_to_its_last_lines(log: StepLog, masker: Masker) -> None:
    """They begin with a whole line, and their secrets are masked."""
    masker.learn(Secret("hunter2"))
    mark = log.mark()
    append(log, b"".join(b"%06d hunter2\n" % number for number in range(10_000)))
    found = log.gained(mark)
    lines = found.text.splitlines()
    assert found.is_cut
    assert lines == [f"{number:06} ***" for number in range(10_000 - len(lines), 10_000)]
    assert 4000 < len(lines) < 5000


def test_a_gain_without_line_ends_is_cut(log: StepLog, masker: Masker) -> None:
    """Its end is shown, without the part of a secret that the cut has left."""
    masker.learn(Secret("hunter2"))
    append(log, b"x" * 1_000_000 + b"hunter2" + b"y" * (64 * 1024 - 3))
    assert log.gained(0).text == "***" + "y" * (64 * 1024 - 3)


def test_whole_lines_come_in_order(log: StepLog, masker: Masker) -> None:
    """A line is there once it has ended; of secrets over several lines, each line is masked."""
    masker.learn(Secret("hunter2\nhunter3"))
    file = log.open_for_program()
    with file, open(file.name, "rb") as source:
        file.write(b"one\nhunter2\nhunt")
        file.flush()
        first = next_lines(source, 0, masker)
        assert first == Gain("one\n***\n", 12)
        assert next_lines(source, first.mark, masker) == Gain(mark=12)
        file.write(b"er3\ntwo\n")
        file.flush()
        assert next_lines(source, first.mark, masker).text.splitlines()[-1] == "two"
        assert "hunt" not in next_lines(source, first.mark, masker).text
        file.write(b"the end")
        file.flush()
        rest = next_lines(source, first.mark, masker)
        last = next_lines(source, rest.mark, masker, wholly=True)
        assert last == Gain("the end", Path(file.name).stat().st_size)
        assert next_lines(source, last.mark, masker, wholly=True) == Gain(mark=last.mark)


def test_a_line_that_never_ends_comes_in_parts(log: StepLog, masker: Masker) -> None:
    """All of it comes once, and a secret between two parts is masked."""
    masker.learn(Secret("hunter2"))
    append(log, b"x" * (1024 * 1024 - 3) + b"hunter2" + b"y" * 1024 * 1024 + b"\n")
    assert log.source is not None
    found, mark = "", 0
    with log.source.open("rb") as source:
        while (gain := next_lines(source, mark, masker)).mark > mark:
            found, mark = found + gain.text, gain.mark
    assert found.replace("***", "") == "x" * (1024 * 1024 - 3) + "y" * 1024 * 1024 + "\n"
    assert "***" in found


@pytest.mark.parametrize("ends_line", [False, True])
def test_a_secret_that_began_before_the_log_was_resumed(
    log: StepLog, masker: Masker, tmp_path: Path, ends_line: bool
) -> None:
    """It is masked, and nothing else of what the file had before is copied."""
    source = tmp_path / "source.txt"
    source.write_bytes(b"before\npassword=hun")
    masker.learn(Secret("hunter2"))
    log.resume(source, lambda: False)
    assert log.tail() == ""
    assert not (tmp_path / "db").exists()
    with source.open("ab") as file:
        file.write(b"ter2\nafter\n" if ends_line else b"ter2 and more than a secret is long")
    log.update()
    for _ in range(6):
        log.tick()
    copied = (tmp_path / "db" / "log.txt").read_text()
    assert copied == "***\nafter\n" if ends_line else copied.startswith("*** and more")
    assert log.tail().splitlines()[0] in ("***", "*** and more than a secret is long")


def test_a_secret_that_is_known_later_is_masked_in_a_resumed_log(
    log: StepLog, masker: Masker, tmp_path: Path
) -> None:
    """The copy is made again, from where it began."""
    source = tmp_path / "source.txt"
    source.write_bytes(b"before\n")
    log.resume(source, lambda: False)
    append(log, b"hunter2\n")
    log.update()
    assert log.path.read_text() == "hunter2\n"
    masker.learn(Secret("hunter2"))
    append(log, b"more\n")
    log.update()
    assert log.path.read_text() == "***\nmore\n"


def test_a_resumed_log_that_is_truncated(log: StepLog, tmp_path: Path) -> None:
    """What is written after that is shown and copied from the beginning of the file."""
    source = tmp_path / "source.txt"
    source.write_bytes(b"before\n" * 9)
    log.resume(source, lambda: False)
    append(log, b"first\n")
    log.update()
    source.write_bytes(b"")
    mark = log.mark()
    append(log, b"second\n")
    assert log.gained(mark).text == "second\n"
    log.update()
    assert log.path.read_text() == "first\nsecond\n"


def test_a_resumed_log_that_is_hidden(log: StepLog, tmp_path: Path) -> None:
    """Nothing of the file is read, and the step's own lines go to another file."""
    source = tmp_path / "source.txt"
    source.write_bytes(b"before\n")
    log.resume(source, lambda: True)
    with source.open("ab") as file:
        file.write(b"hidden\n")
    assert (log.source, log.mark(), log.gained(0), log.tail()) == (None, 0, Gain(), "")
    log.write("own\n")
    assert log.tail() == "own"
    assert log.path.read_text() == "own\n"
    assert source.read_text() == "before\nhidden\n"

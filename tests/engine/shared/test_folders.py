"""The folders of a run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_plan.engine.shared.folders import RunFolders


@pytest.fixture
def folders() -> Iterator[RunFolders]:
    """The folders of a run without artifacts."""
    folders = RunFolders()
    yield folders
    folders.remove()


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return path.stat().st_mode & 0o777


def test_nothing_is_made_before_it_is_asked_for(
    folders: RunFolders, own_temporary_folder: Path
) -> None:
    """A run that uses no folder never creates one."""
    folders.empty("db")
    assert folders.remove() is None
    assert list(own_temporary_folder.glob("plan-*")) == []


def test_a_scratch_folder_can_be_passed_but_not_listed(folders: RunFolders) -> None:
    """The step's folder and its parent have mode 0711."""
    scratch = folders.scratch("db")
    assert (mode(scratch), mode(scratch.parent)) == (0o711, 0o711)
    assert folders.scratch("db") == scratch
    folders.remove()


def test_a_scratch_folder_has_room_for_a_socket(folders: RunFolders) -> None:
    """The path stays far below the 107 bytes that a socket's path may have."""
    scratch = folders.scratch("a_step_with_a_rather_long_name")
    assert len(str(scratch.relative_to(tempfile.gettempdir()))) <= 50
    folders.remove()


def test_removing_takes_everything_along(folders: RunFolders) -> None:
    """Read-only files and unreadable folders are removed as well."""
    scratch = folders.scratch("db")
    (scratch / "locked").mkdir()
    (scratch / "locked" / "file").touch(0o000)
    (scratch / "locked").chmod(0o000)
    (scratch / "link").symlink_to("nowhere")
    assert folders.remove() is None
    assert not scratch.parent.exists()


def test_what_a_link_leads_to_is_not_removed(folders: RunFolders, tmp_path: Path) -> None:
    """The link is removed, its target is not."""
    (tmp_path / "kept").touch()
    (folders.scratch("db") / "link").symlink_to(tmp_path)
    folders.remove()
    assert (tmp_path / "kept").exists()


def test_emptying_removes_the_files_of_one_step(folders: RunFolders) -> None:
    """The files of other steps stay."""
    for name in ("one", "two"):
        (folders.scratch(name) / "file").touch()
    folders.empty("one")
    assert list(folders.scratch("one").iterdir()) == []
    assert mode(folders.scratch("one")) == 0o711
    assert [path.name for path in folders.scratch("two").iterdir()] == ["file"]
    folders.remove()


def test_emptying_what_is_not_there_changes_nothing(folders: RunFolders) -> None:
    """The run's folder keeps its mode 0711."""
    scratch = folders.scratch("one")
    folders.empty("two")
    assert mode(scratch.parent) == 0o711
    folders.remove()


def test_artifacts_lie_where_they_are_kept(tmp_path: Path) -> None:
    """Each step has a private folder for artifacts, which outlives the run."""
    folders = RunFolders(lambda: tmp_path / "artifacts" / "run")
    artifacts = folders.artifacts("db")
    assert artifacts == tmp_path / "artifacts" / "run" / "db"
    assert mode(artifacts) == 0o700
    (artifacts / "dump").touch()
    folders.remove()
    assert (artifacts / "dump").exists()


def test_artifacts_without_a_place_go_with_the_run(folders: RunFolders) -> None:
    """They are in the scratch folder, but not in that of the step."""
    artifacts = folders.artifacts("db")
    assert artifacts != folders.scratch("db")
    folders.remove()
    assert not artifacts.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root can remove everything")
def test_what_cannot_be_removed_is_named(folders: RunFolders) -> None:
    """`remove` returns a message with the folder's path."""
    scratch = folders.scratch("db")
    parent = scratch.parent.parent
    parent.chmod(0o500)
    try:
        assert str(scratch.parent) in str(folders.remove())
    finally:
        parent.chmod(0o711)
        scratch.parent.rmdir()

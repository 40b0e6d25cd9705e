"""The folders of a run."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_plan.engine.processes.identity import Owner, host, namespace
from pytest_plan.engine.shared import folders as module
from pytest_plan.engine.shared.folders import (
    MARKER,
    RunFolders,
    mark,
    mark_ended,
    marker_of,
    remove_tree,
)


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


def test_only_a_folder_with_its_own_marker_is_ours(tmp_path: Path) -> None:
    """A copy, an unmarked folder, a link and a marker that is a link are not ours."""
    ours = tmp_path / "ours"
    ours.mkdir()
    mark(ours)
    copy = shutil.copytree(ours, tmp_path / "copy")
    (tmp_path / "plain").mkdir()
    (tmp_path / "link").symlink_to(ours)
    linked = tmp_path / "linked"
    linked.mkdir()
    mark(linked)
    (linked / MARKER).rename(tmp_path / "marker")
    (linked / MARKER).symlink_to(tmp_path / "marker")
    marker = marker_of(ours)
    assert marker is not None
    assert marker.owner.pid == os.getpid()
    for other in (copy, tmp_path / "plain", tmp_path / "link", linked, tmp_path / "nowhere"):
        assert marker_of(other) is None, other


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"inode": 1, "owner": 3}'])
def test_a_broken_marker_marks_nothing(tmp_path: Path, content: bytes) -> None:
    """Any other content counts as no marker."""
    (tmp_path / MARKER).write_bytes(content)
    assert marker_of(tmp_path) is None


def test_a_marker_that_is_a_fifo_marks_nothing(tmp_path: Path) -> None:
    """Reading the marker does not wait for a writer."""
    os.mkfifo(tmp_path / MARKER)
    assert marker_of(tmp_path) is None


def test_a_folder_is_in_use_until_its_run_ends(tmp_path: Path) -> None:
    """The run may record its end itself, or its process has ended."""
    code = (
        "import sys, pathlib; from pytest_plan.engine.shared.folders import mark;"
        "mark(pathlib.Path(sys.argv[1]))"
    )
    (tmp_path / "dead").mkdir()
    subprocess.run([sys.executable, "-c", code, tmp_path / "dead"], check=True)
    (tmp_path / "live").mkdir()
    mark(tmp_path / "live")
    dead, live = marker_of(tmp_path / "dead"), marker_of(tmp_path / "live")
    assert dead is not None
    assert live is not None
    assert (dead.is_in_use, live.is_in_use) == (False, True)
    mark_ended(tmp_path / "live")
    ended = marker_of(tmp_path / "live")
    assert ended is not None
    assert not ended.is_in_use


def test_a_run_elsewhere_may_always_live() -> None:
    """The process of another host or container is never taken for dead."""
    owner = Owner(2**22 + 1, "1", "boot", host(), namespace())
    assert not owner.may_live
    assert owner._replace(host="elsewhere").may_live
    assert owner._replace(namespace="pid:[1]").may_live


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    """Below the given folder, and in place of the folder itself."""
    (tmp_path / "precious" / "run").mkdir(parents=True)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "artifacts").symlink_to(tmp_path / "precious")
    assert remove_tree(tmp_path / "plan" / "artifacts" / "run", tmp_path / "plan")
    (tmp_path / "plan" / "run").symlink_to(tmp_path / "precious" / "run")
    assert remove_tree(tmp_path / "plan" / "run")
    assert (tmp_path / "precious" / "run").is_dir()


def test_the_temporary_folder_may_be_a_link(tmp_path: Path) -> None:
    """TMPDIR is the choice of the user."""
    (tmp_path / "real" / "plan-1" / "db").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert remove_tree(tmp_path / "link" / "plan-1") == []
    assert list((tmp_path / "real").iterdir()) == []


class TestMounts:
    """Mount points in a folder that is removed."""

    @pytest.fixture
    def mounted(self, folders: RunFolders, tmp_path: Path) -> Iterator[Callable[..., Path]]:
        """Mounts something in the scratch folder of the step `db`."""
        points: list[Path] = []

        def mount(*options: str, point: str = "data") -> Path:
            points.append(folders.scratch("db") / point)
            if not points[-1].exists():
                points[-1].mkdir()
            done = subprocess.run(["mount", *options, points[-1]], capture_output=True, check=False)
            if done.returncode:
                points.pop()
                pytest.skip(f"mounting is not allowed: {done.stderr!r}")
            return points[-1]

        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "work").touch()
        root = folders.scratch("db").parent
        yield mount
        for point in points:
            subprocess.run(["umount", point], check=True)
        assert remove_tree(root) == []

    def test_what_is_mounted_is_left_and_reported(
        self, folders: RunFolders, tmp_path: Path, mounted: Callable[..., Path]
    ) -> None:
        """A bind mount, which has the same device, and another file system."""
        bound = mounted("--bind", str(tmp_path / "precious"))
        other = mounted("-t", "tmpfs", "none", point="memory")
        (other / "work").touch()
        (folders.scratch("db") / "ours").touch()
        text = folders.remove()
        assert text is not None
        assert f"{bound} is a mount point" in text
        assert f"{other} is a mount point" in text
        assert (tmp_path / "precious" / "work").exists()
        assert (other / "work").exists()
        assert not (bound.parent / "ours").exists()

    def test_without_proc_a_bind_mount_is_noticed(
        self, folders: RunFolders, tmp_path: Path, mounted: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """The system call `statx` gives the same answer."""
        bound = mounted("--bind", str(tmp_path / "precious"))
        monkeypatch.setattr(module, "open", refuse, raising=False)
        assert f"{bound} is a mount point" in str(folders.remove())
        assert (tmp_path / "precious" / "work").exists()

    def test_the_folder_itself_may_be_a_mount_point(
        self, folders: RunFolders, tmp_path: Path, mounted: Callable[..., Path]
    ) -> None:
        """A step has mounted something over its temporary folder."""
        point = mounted("--bind", str(tmp_path / "precious"), point=".")
        with pytest.raises(OSError, match="is a mount point"):
            folders.empty("db")
        assert (tmp_path / "precious" / "work").exists()
        assert str(point.parent) in str(folders.remove())

    def test_a_file_may_be_a_mount_point(
        self, folders: RunFolders, tmp_path: Path, mounted: Callable[..., Path]
    ) -> None:
        """The mounted file is not changed."""
        (folders.scratch("db") / "file").touch()
        mounted("--bind", str(tmp_path / "precious" / "work"), point="file")
        assert "busy" in str(folders.remove())
        assert (tmp_path / "precious" / "work").exists()


def refuse(*args: object, **options: object) -> None:
    """Stand for a system without /proc."""
    raise FileNotFoundError


def test_a_folder_that_cannot_be_marked_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path
) -> None:
    """On a full disk: nothing would ever remove a folder without a marker."""

    def fails(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "mark", fails)
    folders = RunFolders(lambda: tmp_path / "artifacts" / "run")
    for make in (folders.scratch, folders.artifacts):
        with pytest.raises(OSError, match="No space"):
            make("db")
    assert list(own_temporary_folder.glob("plan-*")) == []
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_folders_of_steps_with_full_names(tmp_path: Path) -> None:
    """The temporary folder is short and no part of another one; artifacts are nested, never out."""
    kept = RunFolders(artifacts=lambda: tmp_path / "kept")
    names = ("services", "services/a/db", "services/b/db", "../../a/db", "/etc/db")
    scratch = {name: kept.scratch(name) for name in names}
    for name in names:
        assert scratch[name].parent == scratch["services"].parent
        assert len(scratch[name].name) <= 11
        (scratch[name] / "file").touch()
        (kept.artifacts(name) / name.rpartition("/")[2]).touch()
    assert len(set(scratch.values())) == len(names)
    kept.empty("services")
    kept.empty("services/a/db")
    assert [(path / "file").exists() for path in scratch.values()] == [
        False,
        False,
        True,
        True,
        True,
    ]
    files = {path.relative_to(tmp_path / "kept") for path in tmp_path.rglob("*") if path.is_file()}
    assert files - {Path(MARKER)} == {
        Path("services/services"),
        Path("services/a/db/db"),
        Path("services/b/db/db"),
        Path("%2E%2E/%2E%2E/a/db/db"),
        Path("etc/db/db"),
    }
    kept.remove()

"""Private folders, which no other user may read or change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_plan.engine.environments import private as places
from pytest_plan.engine.environments.private import check_private, make_private
from pytest_plan.engine.model.errors import JournalError

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def refused(folder: Path, below: Path, *said: str) -> None:
    """Assert that a folder is refused with a message that has these texts."""
    with pytest.raises(JournalError) as caught:
        make_private(folder, below)
    for text in said:
        assert text in str(caught.value)


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_what_is_made_is_ours_alone(tmp_path: Path, mask: int) -> None:
    """Every created folder is private, whatever the umask."""
    old = os.umask(mask)
    try:
        make_private(tmp_path / "plan" / "environments" / "a", tmp_path / "plan")
    finally:
        os.umask(old)
    for part in ("plan", "plan/environments", "plan/environments/a"):
        assert mode(tmp_path / part) == 0o700


def test_what_is_there_already_is_used(tmp_path: Path) -> None:
    """Other users may read the plan_dir, but not the folders in it."""
    tmp_path.chmod(0o755)
    make_private(tmp_path / "a", tmp_path)
    make_private(tmp_path / "a", tmp_path)
    assert mode(tmp_path) == 0o755


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o777])
def test_a_plan_dir_that_others_can_change_is_refused(tmp_path: Path, bits: int) -> None:
    """Other users could replace our folder."""
    tmp_path.chmod(bits)
    refused(tmp_path / "a", tmp_path, str(tmp_path), f"mode {bits:04o}", "chmod 700")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("bits", [0o770, 0o703, 0o777])
def test_a_folder_in_it_that_others_can_change_is_refused(tmp_path: Path, bits: int) -> None:
    """Its mode is not repaired, because its content cannot be trusted."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(bits)
    refused(tmp_path / "a", tmp_path, f"mode {bits:04o}", "chmod 700")


@pytest.mark.parametrize("bits", [0o755, 0o701])
def test_a_folder_in_it_that_others_can_only_read_is_closed(tmp_path: Path, bits: int) -> None:
    """Its mode is repaired, because other users cannot have added files."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(bits)
    make_private(tmp_path / "a" / "b", tmp_path)
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)


@pytest.mark.parametrize("part", ["plan", "plan/a", "plan/a/b"])
def test_a_link_is_refused_wherever_it_is(tmp_path: Path, part: str) -> None:
    """No folder is created behind it."""
    target = tmp_path / "target"
    target.mkdir(0o700)
    link = tmp_path / part
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (tmp_path / "plan", tmp_path / "plan/a"):
        if folder.is_dir():
            folder.chmod(0o700)
    link.symlink_to(target)
    refused(tmp_path / "plan/a/b", tmp_path / "plan", f"{link} is a symbolic link", "plan_dir")
    assert list(target.iterdir()) == []


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """Its target is not created."""
    (tmp_path / "plan").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "plan" / "a", tmp_path / "plan", "symbolic link")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    """The message says that it is not a directory."""
    (tmp_path / "plan").touch(0o600)
    refused(tmp_path / "plan" / "a", tmp_path / "plan", "is not a directory", "plan_dir")


@needs_root
@pytest.mark.parametrize("part", ["plan", "plan/a"])
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, part: str) -> None:
    """The message has the id of its owner."""
    (tmp_path / "plan" / "a").mkdir(parents=True)
    for made in ("plan", "plan/a"):
        (tmp_path / made).chmod(0o700)
    os.chown(tmp_path / part, NOBODY, NOBODY)
    folder = tmp_path / "plan" / "a"
    refused(
        folder,
        tmp_path / "plan",
        f"belongs to user {NOBODY}, not to the current user (0)",
        "plan_dir",
    )


@pytest.mark.parametrize("bits", [0o640, 0o604])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, bits: int) -> None:
    """`check_private` refuses a file that is not private."""
    file = tmp_path / "journal"
    file.touch()
    file.chmod(bits)
    with pytest.raises(JournalError, match=r"run: chmod 600 /"):
        check_private(file)
    file.chmod(0o600)
    check_private(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The message has the system's reason."""
    with pytest.raises(JournalError, match="No such file"):
        check_private(tmp_path / "journal")


class TestNetwork:
    """File systems on which a journal is not safe."""

    def mounts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
        """Replaces the system's list of mounted file systems."""
        file = tmp_path / "mounts"
        file.write_text("".join(f"{line} rw 0 0\n" for line in ("root / ext4", *lines)))
        monkeypatch.setattr(places, "_MOUNTS", file)

    @pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs"])
    def test_they_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        """The message names the file system."""
        self.mounts(tmp_path, monkeypatch, f"server:/home {tmp_path} {kind}")
        refused(tmp_path / "plan" / "a", tmp_path / "plan", f"network file system ({kind})")

    def test_a_local_one_below_a_remote_one_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The innermost mount counts, and not one whose path merely begins alike."""
        (tmp_path / "my local").mkdir(0o700)
        name = str(tmp_path / "my local").replace(" ", "\\040")
        lines = (f"server:/ {tmp_path} nfs", f"disk {name} ext4", f"s:/ {tmp_path}/my nfs")
        self.mounts(tmp_path, monkeypatch, *lines)
        make_private(tmp_path / "my local" / "a", tmp_path / "my local")

    def test_the_last_mount_on_a_place_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It hides the earlier mounts."""
        self.mounts(tmp_path, monkeypatch, f"d {tmp_path} ext4", f"server:/ {tmp_path} nfs")
        refused(tmp_path / "plan" / "a", tmp_path / "plan", "network")

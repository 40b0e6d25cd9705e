"""Where the programs of servers are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_plan.steps.servers.programs import Kind, find_program

KIND = Kind(title="Server", program="serve", install="get it", needs=["help"])


def installed(folder: Path, version: str, *names: str) -> Path:
    """Install programs that print a version."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho Server v{version} of today\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def empty_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that is the first in PATH, in which nothing is installed yet."""
    first = tmp_path / "first"
    monkeypatch.setenv("PATH", f"{first}:{tmp_path / 'second'}:/nowhere")
    return first


def test_the_first_in_path_is_used(tmp_path: Path) -> None:
    """A program without those that must be beside it does not count."""
    installed(tmp_path / "first", "1.0", "serve")
    second = installed(tmp_path / "second", "2.0", "serve", "help")
    found = find_program(KIND)
    assert found == (second / "serve", "2.0", f"PATH: {second / 'serve'}")


def test_a_version_is_searched_for_everywhere(tmp_path: Path) -> None:
    """Each number of it must be equal: 1 is not 10."""
    installed(tmp_path / "first", "10.0", "serve", "help")
    installed(tmp_path / "second", "1.4.2", "serve", "help")
    newer = installed(tmp_path / "lib" / "12", "12", "serve", "help")
    older = installed(tmp_path / "lib" / "9", "9.6", "serve", "help")
    kind = KIND._replace(folders=[f"{tmp_path}/lib/*"])
    assert find_program(kind, version="1").version == "1.4.2"
    assert find_program(kind, version="1.4").version == "1.4.2"
    assert find_program(kind, version="9").path == older / "serve"
    assert find_program(kind, version="12").path == newer / "serve"
    with pytest.raises(FileNotFoundError) as caught:
        find_program(kind, version="1.5")
    assert str(caught.value) == (
        f"no Server 1.5 is installed: found 10.0 (PATH: {tmp_path}/first/serve), "
        f"1.4.2 (PATH: {tmp_path}/second/serve), 12 ({tmp_path}/lib/12), 9.6 ({tmp_path}/lib/9); "
        "install it (get it), or set bin to the folder with 'serve'"
    )


def test_a_folder_that_cannot_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PATH may have folders of other users, and names that are too long for any folder."""
    second = installed(tmp_path / "second", "2", "serve", "help")
    monkeypatch.setenv("PATH", f"/{'x' * 5000}:{second}")
    assert find_program(KIND).version == "2"


def test_a_link_stands_for_what_it_leads_to(tmp_path: Path) -> None:
    """Debian links some programs into PATH, but not those beside them."""
    real = installed(tmp_path / "real", "3", "serve", "help")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "serve").symlink_to(real / "serve")
    assert find_program(KIND).path == real / "serve"


def test_a_given_folder_or_program_is_the_only_one(tmp_path: Path) -> None:
    """Its version must be right as well."""
    installed(tmp_path / "first", "1", "serve", "help")
    mine = installed(tmp_path / "mine", "2", "serve", "help")
    assert find_program(KIND, mine).version == "2"
    assert find_program(KIND, str(mine / "serve")).version == "2"
    with pytest.raises(FileNotFoundError, match=rf"found 2 \(bin: {mine}\); install it"):
        find_program(KIND, mine, "1")
    with pytest.raises(FileNotFoundError) as caught:
        find_program(KIND, tmp_path)
    assert str(caught.value) == (
        f"no Server: bin is '{tmp_path}', where there is no program 'serve' with 'help' beside it"
    )


@pytest.mark.parametrize("script", ["exit 1", "echo nothing", "echo Server v7; exit 3"])
def test_a_program_that_prints_no_version_has_none(tmp_path: Path, script: str) -> None:
    """Its exit status does not matter."""
    folder = installed(tmp_path / "first", "1", "serve", "help")
    (folder / "serve").write_text(f"#!/bin/sh\n{script}\n")
    if "7" in script:
        assert find_program(KIND).version == "7"
    else:
        with pytest.raises(FileNotFoundError, match="is installed: found PATH: "):
            find_program(KIND)

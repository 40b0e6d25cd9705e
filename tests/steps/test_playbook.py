"""The function `playbook`, with the real Ansible."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_plan import Context, PlanDefinitionError, PlanError
from pytest_plan.steps import playbook
from pytest_plan.steps.playbook import KIND
from tests.steps.running import cause_of, run
from tests.steps.servers.kinds import program_or_skip

pytestmark = pytest.mark.engines

HEAD = "- hosts: all\n  gather_facts: false\n  tasks:\n"


@pytest.fixture(autouse=True)
def ansible() -> None:
    """Skip tests where Ansible is missing."""
    program_or_skip(KIND)


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """An inventory of two hosts, which are this machine."""
    path = tmp_path / "hosts"
    how = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
    path.write_text(f"a {how}\nb {how}\n")
    return path


@pytest.fixture
def book(tmp_path: Path) -> Any:
    """A function that writes a playbook."""

    def write(*tasks: str) -> Path:
        path = tmp_path / "book.yml"
        path.write_text(HEAD + "".join(f"    - {task}\n" for task in tasks))
        return path

    return write


def test_the_tasks_run_on_all_hosts(book: Any, hosts: Path, tmp_path: Path) -> None:
    """Variables are passed on, and each task is in the log."""
    file = book(
        "name: write it\n      copy:\n        content: '{{ text }}'\n"
        "        dest: '{{ out }}{{ inventory_hostname }}'",
        "name: may fail\n      command: /bin/false\n      ignore_errors: true",
    )
    variables = {"text": "a 'b' \"ä\"", "out": f"{tmp_path}/out-"}

    def exec(ctx: Context) -> str:
        playbook(ctx, file, hosts, variables=variables)
        return (ctx.artifacts / "log.txt").read_text()

    log = run(exec)
    assert "TASK [write it] ***" in log
    assert "changed: [a]" in log
    assert "changed: [b]" in log
    for host in "ab":
        assert (tmp_path / f"out-{host}").read_text() == variables["text"]


def test_a_failed_task_is_one_message(book: Any, hosts: Path) -> None:
    """It has host, task and error; an ignored failure is not in it."""
    file = book(
        "name: may fail\n      command: /bin/false\n      ignore_errors: true",
        "name: break it\n      shell: 'echo out; echo oh no >&2; exit 3'\n"
        "      when: inventory_hostname == 'b'",
        "name: never\n      command: /bin/true",
    )
    error = cause_of(lambda ctx: playbook(ctx, file, hosts))
    assert isinstance(error, RuntimeError)
    assert str(error) == (
        "playbook book.yml exited with status 2; "
        "task 'break it' failed on b: non-zero return code | oh no | out"
    )


def test_a_failed_item_of_a_loop_is_one_message(book: Any, hosts: Path) -> None:
    """Each host is in it."""
    file = book("name: loop it\n      command: '{{ item }}'\n      loop: [/bin/true, /bin/false]")
    message = str(cause_of(lambda ctx: playbook(ctx, file, hosts)))
    assert "task 'loop it' failed on a: non-zero return code" in message
    assert "task 'loop it' failed on b: non-zero return code" in message


def test_a_host_that_cannot_be_reached_is_one_message(book: Any, tmp_path: Path) -> None:
    """It has the error of the connection."""
    if shutil.which("ssh") is None:
        pytest.skip("no ssh is installed")
    inventory = tmp_path / "away"
    inventory.write_text("c ansible_host=127.0.0.1 ansible_port=1\n")
    message = str(cause_of(lambda ctx: playbook(ctx, book("name: see it\n      ping:"), inventory)))
    assert "task 'see it' cannot be reached on c: " in message.replace("\\n", " ")
    assert "Connection refused" in message


def test_an_error_in_the_playbook_is_one_message(book: Any, hosts: Path) -> None:
    """It has the words of Ansible."""
    message = str(cause_of(lambda ctx: playbook(ctx, book("nosuchmodule: {a: b}"), hosts)))
    assert message.startswith("playbook book.yml exited with status ")
    assert "nosuchmodule" in message


def test_the_settings_of_the_user_do_not_count(
    book: Any, hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the file beside the playbook do."""
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "no_such_callback")
    monkeypatch.setenv("ANSIBLE_CONFIG", "/nowhere/ansible.cfg")
    file = book("name: see it\n      debug: {msg: '{{ 1 + 1 }}'}")
    run(lambda ctx: playbook(ctx, file, hosts))
    (tmp_path / "ansible.cfg").write_text(
        "[defaults]\ninventory_ignore_extensions = .x\nroles_path = r\n"
    )
    (tmp_path / "r" / "mine" / "tasks").mkdir(parents=True)
    (tmp_path / "r" / "mine" / "tasks" / "main.yml").write_text(
        f"- copy: {{content: x, dest: {tmp_path}/done}}\n"
    )
    file.write_text("- hosts: a\n  gather_facts: false\n  roles: [mine]\n")
    run(lambda ctx: playbook(ctx, file, hosts))
    assert (tmp_path / "done").exists()


def test_a_step_that_must_stop_ends_the_playbook(book: Any, hosts: Path) -> None:
    """Its processes end as well."""
    file = book("name: sleep\n      command: /bin/sleep 60")
    error = cause_of(lambda ctx: playbook(ctx, file, hosts), timeout="4s")
    assert isinstance(error, PlanError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.yml", "a,"), "playbook: file is 'no.yml', which does not exist"),
        ((None, "a,"), "playbook: file is None, which does not exist"),
        ((__file__, "nowhere"), "playbook: inventory is 'nowhere', which does not exist"),
        ((__file__, None), "playbook: inventory is None, which does not exist"),
    ],
)
def test_a_bad_argument_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    """Nothing is run."""
    error = cause_of(lambda ctx: playbook(ctx, *arguments))
    assert isinstance(error, PlanDefinitionError)
    assert str(error) == message


def test_variables_must_be_json(book: Any, hosts: Path) -> None:
    """Nothing is run."""
    error = cause_of(lambda ctx: playbook(ctx, book("ping:"), hosts, variables={"a": object()}))
    assert isinstance(error, PlanDefinitionError)
    assert str(error).startswith("playbook: variables must be JSON: ")

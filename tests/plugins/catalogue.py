"""The plugins that are tried, each with what it does in the suite."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata

from tests.plugins import looks
from tests.plugins.suite import BLOCKED, Ended


def _nothing(ended: Ended) -> None:
    """Check nothing more than the outcomes."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin, and how the suite uses it.

    Attributes:
        name: the name of its distribution.
        args: its options.
        files: files of the suite that use it, by name.
        beside: the distributions of other plugins that it uses.
        ini: lines of the ini file.
        summary: what the last lines say of a run without a fault.
        blocked: the node id of the test that a failed step blocks.
        look: reads what it shows.
        report: what it writes, if not only pytest's summary.
        check: checks that it did its work in a run without a fault.
    """

    name: str
    args: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    ini: str = ""
    summary: str = "2 passed"
    blocked: str = BLOCKED
    look: looks.Look = looks.in_terminal
    report: str = ""
    check: Callable[[Ended], None] = _nothing

    @property
    def version(self) -> str:
        """The version that is installed."""
        return metadata.version(self.name)

    @property
    def options(self) -> tuple[str, ...]:
        """The options that load the plugin and those that it takes."""
        names = [
            point.name
            for name in (*self.beside, self.name)
            for point in metadata.distribution(name).entry_points.select(group="pytest11")
        ]
        return (*(part for name in names for part in ("-p", name)), *self.args)

    def shown(self, word: str) -> str:
        """Return how the table tells of a word that the plugin shows."""
        return f"`{word}` in {self.report}" if self.report else f"`{word}`"


def _covered(ended: Ended) -> None:
    files = json.loads(ended.read("cov.json"))["files"]
    # Each line but the two that raise; what runs after `yield` is one of them.
    assert len(files["conftest.py"]["missing_lines"]) == 2
    assert not list(ended.folder.glob(".coverage.*"))


def _ran_in_all(ended: Ended) -> None:
    assert "test_order[1-2]" in ended.output


def _ran_one_group(ended: Ended) -> None:
    assert "1 of 2" in ended.output or "group 1/2" in ended.output


def _ran_again(ended: Ended) -> None:
    assert ended.read("tries.txt") == "xx"


_TRIED_TWICE = """
import pathlib
import pytest

{mark}
def test_second_try(shop):
    with pathlib.Path("tries.txt").open("a") as file:
        file.write("x")
    assert pathlib.Path("tries.txt").read_text() == "xx"
"""
_FEATURE = """
Feature: Shop
    Scenario: Order
        Given the open shop
        Then it is called shop
"""
_SCENARIO = """
from pytest_bdd import given, scenarios, then

scenarios("shop.feature")

@given("the open shop", target_fixture="name")
def open_shop(shop):
    return shop

@then("it is called shop")
def is_shop(name):
    assert name == "shop"
"""
_DJANGO = """
from django.contrib.auth.models import Group
import pytest

@pytest.mark.django_db
def test_row(shop):
    Group.objects.create(name=shop)
    assert Group.objects.count() == 1
"""
_SETTINGS = """
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
SECRET_KEY = "for tests"
USE_TZ = True
"""
_XPROCESS = """
import sys
from xprocess import ProcessStarter

def test_helper(shop, xprocess):
    class Helper(ProcessStarter):
        pattern = "ready"
        args = [sys.executable, "-u", "-c", "print('ready'); import time; time.sleep(60)"]

    name = f"helper-{shop}"
    xprocess.ensure(name, Helper)
    xprocess.getinfo(name).terminate()
"""


def _test(body: str, head: str = "", args: str = "shop") -> dict[str, str]:
    """Return a test module with one test."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return {"test_more.py": f"{head}\ndef test_more({args}):\n{lines}\n"}


PLUGINS = (
    Plugin(
        "pytest",
        ("--junitxml=report.xml",),
        look=looks.in_junit,
        report="the JUnit file",
    ),
    Plugin(
        "pytest-cov",
        ("--cov=.", "--cov-report=json:cov.json"),
        check=_covered,
    ),
    Plugin(
        "pytest-html",
        ("--html=report.html", "--self-contained-html"),
        beside=("pytest-metadata",),
        look=looks.in_html,
        report="the page",
    ),
    Plugin(
        "pytest-json-report",
        ("--json-report",),
        beside=("pytest-metadata",),
        look=looks.in_json,
        report="the report",
    ),
    Plugin(
        "pytest-reportlog",
        ("--report-log=log.jsonl",),
        look=looks.in_log,
        report="the log",
    ),
    Plugin(
        "allure-pytest",
        ("--alluredir=allure",),
        look=looks.in_allure,
        report="the results",
    ),
    Plugin("pytest-sugar", ("--force-sugar",)),
    Plugin("pytest-instafail", ("--instafail",)),
    Plugin("pytest-tldr", look=looks.in_tldr, summary="Ran 2 tests"),
    Plugin(
        "teamcity-messages",
        ("--teamcity",),
        look=looks.in_teamcity,
        report="the messages",
    ),
    Plugin(
        "pytest-rerunfailures",
        ("--reruns=2",),
        {"test_tries.py": _TRIED_TWICE.format(mark="")},
        summary="3 passed",
        check=_ran_again,
    ),
    Plugin(
        "flaky",
        ("--force-flaky", "--max-runs=3"),
        {"test_tries.py": _TRIED_TWICE.format(mark="")},
        summary="3 passed",
        check=_ran_again,
    ),
    Plugin(
        "pytest-retry",
        ("--retries=2",),
        {"test_tries.py": _TRIED_TWICE.format(mark="")},
        summary="3 passed",
        check=_ran_again,
    ),
    Plugin("pytest-randomly"),
    Plugin(
        "pytest-repeat",
        ("--count=2",),
        summary="4 passed",
        blocked=f"{BLOCKED}[1-2]",
        check=_ran_in_all,
    ),
    Plugin(
        "pytest-order",
        files=_test("assert shop", "import pytest\n@pytest.mark.order(1)"),
        summary="3 passed",
    ),
    Plugin("pytest-split", ("--splits=2", "--group=1"), summary="1 passed"),
    Plugin(
        "pytest-bdd",
        files={"shop.feature": _FEATURE, "test_bdd.py": _SCENARIO},
        summary="3 passed",
    ),
    Plugin("pytest-forked", ("--forked",)),
    Plugin(
        "pytest-benchmark",
        ("--benchmark-disable-gc",),
        _test("assert benchmark(str.upper, shop) == 'SHOP'", args="shop, benchmark"),
        summary="3 passed",
    ),
    Plugin(
        "pytest-asyncio",
        files={"test_more.py": "async def test_more(shop):\n    assert shop == 'shop'\n"},
        ini="asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n",
        summary="3 passed",
    ),
    Plugin(
        "anyio",
        files={
            "test_more.py": "import pytest\n"
            "@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n"
            "@pytest.mark.anyio\nasync def test_more(shop):\n    assert shop == 'shop'\n"
        },
        summary="3 passed",
    ),
    Plugin(
        "pytest-django",
        files={"test_row.py": _DJANGO, "settings.py": _SETTINGS},
        ini="DJANGO_SETTINGS_MODULE = settings\npythonpath = .\n",
        summary="3 passed",
    ),
    Plugin(
        "pytest-subtests",
        files=_test(
            "for letter in shop:\n    with subtests.test(letter=letter):\n        assert letter",
            args="shop, subtests",
        ),
        summary="3 passed",
    ),
    Plugin(
        "pytest-mock",
        files=_test(
            "mocker.patch('time.monotonic')\nmocker.patch('time.sleep')\nassert shop",
            args="shop, mocker",
        ),
        summary="3 passed",
    ),
    Plugin(
        "pytest-env",
        files=_test("import os\nassert os.environ['SHOP_ENV'] == 'test'"),
        ini="env =\n    SHOP_ENV=test\n",
        summary="3 passed",
    ),
    Plugin(
        "freezegun",
        ("--plan-limit=10m",),
        _test(
            "assert datetime.date.today().year == 2050",
            "import datetime\nimport freezegun\n@freezegun.freeze_time('2050-01-01')",
        ),
        summary="3 passed",
    ),
    Plugin(
        "time-machine",
        ("--plan-limit=10m",),
        _test(
            "time_machine.move_to('2050-01-01')\nassert datetime.date.today().year == 2050",
            "import datetime",
            "shop, time_machine",
        ),
        summary="3 passed",
    ),
    Plugin(
        "hypothesis",
        files=_test(
            "assert shop == 'shop'",
            "from hypothesis import given, strategies\n@given(number=strategies.integers())",
            "number, shop",
        ),
        summary="3 passed",
    ),
    Plugin(
        "syrupy",
        ("--snapshot-update",),
        _test("assert shop == snapshot", args="shop, snapshot"),
        summary="3 passed",
    ),
    Plugin(
        "pytest-xprocess",
        files={"test_helper.py": _XPROCESS},
        summary="3 passed",
    ),
    Plugin("pytest-testmon", ("--testmon",)),
)

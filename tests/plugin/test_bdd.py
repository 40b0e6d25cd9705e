"""Scenarios of pytest-bdd: their lines take steps as fixtures, which is known at collection."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_plan.plugin.compat.late_requests import Scenarios
from tests.plugin.project import Project

pytest.importorskip("pytest_bdd")

STEPS = """
@pytest.mark.plan_step(needs=())
def net(): note("net"); return "net"

@pytest.mark.plan_step
def shop(net): note("shop"); return {"url": "http://shop"}

@pytest.mark.plan_step(needs=())
def till(): note("till"); return []

@pytest.mark.plan_step(needs=())
def other(): note("other")

@pytest.fixture
def lamp_price(till): return 7 + len(till)
"""
CART = """\
Feature: Cart

  Background:
    Given a shop

  Scenario: One lamp
    When I order a lamp
    Then the cart has 1 thing
"""
FUNCTIONS = """
from pytest_bdd import given, parsers, scenario, scenarios, then, when

@given("a shop", target_fixture="cart")
def a_shop(shop): return [shop["url"]]

@when("I order a lamp")
def order(cart): cart.append("lamp")

@then(parsers.parse("the cart has {count:d} thing"))
def has(cart, count): assert len(cart) == count + 1
"""
SCENARIOS = 'from pytest_bdd import scenarios\nscenarios("cart.feature")'
RUN = ("-p", "pytest_bdd.plugin")


class Case(SimpleNamespace):
    """A feature, the modules that define the functions of its lines, and the steps that it needs.

    Attributes:
        feature: the text of the feature file.
        files: the text of each file, by name.
        needs: the steps that run, in order.
        passes: how many tests pass.
    """


CASES = {
    "given in a background": Case(
        feature=CART,
        files={"test_cart.py": FUNCTIONS + 'scenarios("cart.feature")'},
        needs=["net", "shop"],
        passes=1,
    ),
    "functions in a conftest": Case(
        feature=CART,
        files={"conftest.py": FUNCTIONS, "test_cart.py": SCENARIOS},
        needs=["net", "shop"],
        passes=1,
    ),
    "functions in a plugin": Case(
        feature=CART,
        files={
            "conftest.py": 'pytest_plugins = ["lines"]',
            "lines.py": FUNCTIONS,
            "test_cart.py": SCENARIOS,
        },
        needs=["net", "shop"],
        passes=1,
    ),
    "decorated scenario": Case(
        feature=CART,
        files={
            "test_cart.py": FUNCTIONS + '@scenario("cart.feature", "One lamp")\ndef test_it(): pass'
        },
        needs=["net", "shop"],
        passes=1,
    ),
    "when, by way of a fixture": Case(
        feature="Feature: F\n  Scenario: S\n    When I pay\n",
        files={
            "test_cart.py": "from pytest_bdd import *\nscenarios('cart.feature')\n"
            "@when('I pay')\ndef pay(lamp_price): assert lamp_price == 7"
        },
        needs=["till"],
        passes=1,
    ),
    "then of any kind, as a generator": Case(
        feature="Feature: F\n  Scenario: S\n    Then it is open\n",
        files={
            "test_cart.py": "from pytest_bdd import *\nscenarios('cart.feature')\n"
            "@step('it is open')\ndef is_open(till):\n    assert till == []\n    yield"
        },
        needs=["till"],
        passes=1,
    ),
    "outline whose examples take different steps": Case(
        feature="Feature: F\n  Scenario Outline: S\n    Given the <what>\n\n    Examples:\n"
        "    | what |\n    | shop |\n    | till |\n",
        files={
            "test_cart.py": "from pytest_bdd import *\nscenarios('cart.feature')\n"
            "@given('the shop')\ndef the_shop(shop): pass\n"
            "@given('the till')\ndef the_till(till): pass"
        },
        needs=["net", "shop", "till"],
        passes=2,
    ),
    "argument of the line instead of a step": Case(
        feature="Feature: F\n  Scenario: S\n    Given a till with 3 coins\n",
        files={
            "test_cart.py": "from pytest_bdd import *\nfrom pytest_bdd import parsers\n"
            "scenarios('cart.feature')\n"
            "@given(parsers.re(r'a till with (?P<till>\\d+) coins'), converters={'till': int})\n"
            "def coins(till): assert till == 3"
        },
        needs=[],
        passes=1,
    ),
    "target_fixture instead of a step": Case(
        feature="Feature: F\n  Scenario: S\n    Given a till\n    When I look\n",
        files={
            "test_cart.py": "from pytest_bdd import *\nscenarios('cart.feature')\n"
            "@given('a till', target_fixture='till')\ndef given_till(): return [1]\n"
            "@when('I look')\ndef look(till, lamp_price): assert till == [1] and lamp_price == 8"
        },
        needs=[],
        passes=1,
    ),
    "fixture that overrides a step": Case(
        feature="Feature: F\n  Scenario: S\n    Given a till\n",
        files={
            "test_cart.py": "import pytest\nfrom pytest_bdd import *\nscenarios('cart.feature')\n"
            "@pytest.fixture\ndef till(): return 'own'\n"
            "@given('a till')\ndef given_till(till): assert till == 'own'"
        },
        needs=[],
        passes=1,
    ),
    "function that a module overrides": Case(
        feature="Feature: F\n  Scenario: S\n    Given a till\n",
        files={
            "conftest.py": "from pytest_bdd import given\n"
            "@given('a till')\ndef given_till(other): pass",
            "test_cart.py": "from pytest_bdd import *\nscenarios('cart.feature')\n"
            "@given('a till')\ndef given_till(till): pass",
        },
        needs=["till"],
        passes=1,
    ),
    "parameter instead of a step": Case(
        feature=CART,
        files={
            "test_cart.py": FUNCTIONS + "import pytest\n"
            "@pytest.mark.parametrize('shop', [{'url': 'a'}, {'url': 'b'}])\n"
            '@scenario("cart.feature", "One lamp")\ndef test_it(shop): pass'
        },
        needs=[],
        passes=2,
    ),
    "tag": Case(
        feature="@plan\nFeature: F\n  Scenario: S\n    Given a till\n",
        files={
            "test_cart.py": "from pytest_bdd import *\nscenarios('cart.feature')\n"
            "@given('a till')\ndef given_till(): pass"
        },
        needs=["net", "shop", "till", "other"],
        passes=1,
    ),
    "table and text": Case(
        feature="Feature: F\n  Scenario: S\n    Given a table\n      | a |\n      | 1 |\n"
        '    And a text\n      """\n      words\n      """\n',
        files={
            "test_cart.py": "from pytest_bdd import *\nscenarios('cart.feature')\n"
            "@given('a table')\ndef table(datatable, till): assert datatable == [['a'], ['1']]\n"
            "@given('a text')\ndef text(docstring): assert docstring == 'words'"
        },
        needs=["till"],
        passes=1,
    ),
}


def write(project: Project, case: Any) -> None:
    """Write the files of a case."""
    files = dict(case.files)
    project.steps(STEPS, files.pop("conftest.py", ""))
    project.write("cart.feature", case.feature)
    for name, text in files.items():
        project.write(name, text)


@pytest.mark.parametrize("name", CASES)
def test_scenario_needs_what_its_lines_take(project: Project, name: str) -> None:
    """Exactly the steps run that the functions of the scenario's lines take."""
    write(project, CASES[name])
    result = project.run_apart(*RUN)
    result.assert_outcomes(passed=CASES[name].passes)
    assert sorted(project.calls) == sorted(CASES[name].needs)


def test_plan_show_knows_the_needs_of_a_scenario(project: Project) -> None:
    """`--plan-show` lists the scenario under its step, and runs nothing."""
    write(project, CASES["given in a background"])
    result = project.run_apart(*RUN, "--plan-show")
    result.stdout.fnmatch_lines(["*1 test needs *shop*", "*test_one_lamp*"])
    assert project.calls == []


def test_line_without_a_function_is_reported_by_pytest_bdd(project: Project) -> None:
    """A scenario that cannot run fails as without the plugin, and needs the other lines' steps."""
    project.steps(STEPS)
    project.write("cart.feature", CART + "    And nobody knows this\n")
    project.write("test_cart.py", FUNCTIONS + 'scenarios("cart.feature")')
    result = project.run_apart(*RUN)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*StepDefinitionNotFoundError*nobody knows this*"])
    assert project.calls == ["net", "shop"]


class TestOtherInternals:
    """Versions of pytest-bdd with other internals."""

    def test_nothing_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If pytest-bdd lacks what is used, nothing is found, and no error is raised."""

        class Item:
            obj = staticmethod(test_plan_show_knows_the_needs_of_a_scenario)

        for module in (SimpleNamespace(), SimpleNamespace(scenario_wrapper_template_registry=1)):
            monkeypatch.setitem(sys.modules, "pytest_bdd.scenario", module)
            assert Scenarios().requests(Item()) == []  # type: ignore[arg-type]

    @pytest.mark.parametrize("mark", ["", "@pytest.mark.plan('shop')"])
    def test_mark_declares_the_need(self, project: Project, mark: str) -> None:
        """The test fails with a message that names the mark; with the mark it passes."""
        project.steps(
            STEPS,
            "from pytest_plan.plugin.compat import late_requests",
            "late_requests._template = lambda bdd, item: bdd.a_name_that_does_not_exist",
        )
        project.write("cart.feature", CART)
        project.write(
            "test_cart.py",
            f'{FUNCTIONS}\nimport pytest\n{mark}\n@scenario("cart.feature", "One lamp")\n'
            "def test_it(): pass",
        )
        result = project.run_apart(*RUN)
        if mark:
            result.assert_outcomes(passed=1)
        else:
            result.assert_outcomes(failed=1)
            result.stdout.fnmatch_lines(["*'shop' was not provisioned*@pytest.mark.plan('shop')*"])

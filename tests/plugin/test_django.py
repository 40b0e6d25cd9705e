"""Tests of pytest-django need the steps that their database needs, which is known at collection."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project

pytest.importorskip("pytest_django")

RUN = ("-p", "pytest_django.plugin", "-W", "default")
SETTINGS = """
SECRET_KEY = "for tests"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "settings"
urlpatterns = []
STATIC_URL = "/static/"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""
STEPS = """
@pytest.mark.plan_step(needs=())
def server(): note("server"); return "server"

@pytest.mark.plan_step(needs=())
def other(): note("other")

@pytest.fixture(scope="session")
def django_db_modify_db_settings(server): assert server == "server"
"""
TESTS = {
    "mark": "@pytest.mark.django_db\ndef test_it(): assert not User.objects.exists()",
    "mark of a module": "pytestmark = pytest.mark.django_db\n"
    "def test_it(): assert not User.objects.exists()",
    "fixture": "def test_it(db): assert not User.objects.exists()",
    "TestCase": "class TestIt(django.test.TestCase):\n"
    "    def test_it(self): assert not User.objects.exists()",
    "TransactionTestCase": "class TestIt(django.test.TransactionTestCase):\n"
    "    def test_it(self): assert not User.objects.exists()",
    "live_server": "def test_it(live_server): assert live_server.url",
}
WITHOUT = {
    "no mark": "def test_it(): pass",
    "SimpleTestCase": "class TestIt(django.test.SimpleTestCase):\n    def test_it(self): pass",
}


@pytest.fixture
def django(project: Project) -> Project:
    """A project whose database is set up by a fixture that takes a step."""
    project.write("settings.py", SETTINGS)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npythonpath = .\n")
    project.steps(STEPS)
    return project


def run(project: Project, test: str) -> None:
    """Run one test, which must pass."""
    head = "import django.test\nfrom django.contrib.auth.models import User\n"
    project.tests(f"{head}{test}")
    project.run_apart(*RUN).assert_outcomes(passed=1)


@pytest.mark.parametrize("name", TESTS)
def test_database_needs_its_step(django: Project, name: str) -> None:
    """However a test asks for the database, the step of the database is provisioned."""
    run(django, TESTS[name])
    assert django.calls == ["server"]


@pytest.mark.parametrize("name", WITHOUT)
def test_no_database_needs_no_step(django: Project, name: str) -> None:
    """A test without a database needs no step."""
    run(django, WITHOUT[name])
    assert django.calls == []

"""A step's fixture has the step's name and value; all steps and tests share `plan.state`."""

from urllib.request import urlopen


def fetch(url):
    with urlopen(url) as response:
        return response.read().decode()


def test_page_is_served(page):
    assert fetch(page) == "Hello from the plan"


def test_page_is_listed(web, page):
    assert "hello.html" in fetch(web)


def test_every_test_sees_the_same_state(web, page, plan):
    assert plan.state["web"] == web
    assert plan.state["page"] == page

import psycopg
import pytest
import shop


def version(url):
    with psycopg.connect(url) as connection:
        return connection.info.server_version // 10000


def test_the_server_is_old(app):
    assert version(app) < 18


@pytest.mark.parametrize("item", ["chair", "shelf", "table"])
def test_an_order_is_stored(app, item):
    number = shop.order(app, item, 1)
    assert (number, item, 1) in shop.orders(app)


@pytest.mark.plan_each("app", "upgraded")
def test_orders_are_numbered(plan, plan_step_name):
    url = plan.state[plan_step_name]
    first, second = shop.order(url, "rug", 1), shop.order(url, "rug", 1)
    assert second > first


def test_the_server_is_new(upgraded):
    assert version(upgraded) == 18


def test_orders_survive_the_upgrade(app, upgraded):
    assert (1, "lamp", 2) in shop.orders(upgraded)
    assert set(shop.orders(app)) <= set(shop.orders(upgraded))


def test_numbers_go_on_after_the_upgrade(app, upgraded):
    last = max(number for number, *_ in shop.orders(app))
    assert shop.order(upgraded, "mirror", 1) > last

"""Tests of the shop against real servers. Even `pytest -n 4` starts only one of each server."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest
from shop import PRICE_CACHED_SECONDS, OutOfStockError, UnknownProductError, open_shop


@pytest.fixture
def shop(seed):
    """The shop, opened as in production: the plan has set its two environment variables."""
    with open_shop() as shop:
        yield shop


@pytest.fixture
def lamp(shop):
    """The name of a product with five in stock, for this test alone.

    Tests in other processes use the same servers.
    """
    name = f"lamp-{uuid4()}"
    shop.add_product(name, price=250, stock=5)
    yield name
    shop.remove_product(name)


def test_catalogue_is_for_sale(shop, plan):
    for name, price in plan.state["catalogue"].items():
        assert shop.price(name) == price


def test_unknown_product_is_refused(shop):
    with pytest.raises(UnknownProductError, match="unicorn"):
        shop.place_order("unicorn", 1)


def test_order_takes_from_the_stock(shop, lamp):
    order = shop.place_order(lamp, 2)
    assert shop.order(order.number) == order
    assert shop.product(lamp).stock == 3


def test_order_keeps_its_price(shop, lamp):
    order = shop.place_order(lamp, 2)
    shop.change_price(lamp, 999)
    assert shop.order(order.number).total == 500


def test_more_than_the_stock_is_refused(shop, lamp):
    with pytest.raises(OutOfStockError, match="5 left, 6 ordered"):
        shop.place_order(lamp, 6)
    assert shop.product(lamp).stock == 5


def test_last_pieces_are_sold_once(shop, lamp):
    def buy(_):
        with open_shop() as customer:
            try:
                return customer.place_order(lamp, 1).number
            except OutOfStockError:
                return None

    with ThreadPoolExecutor(8) as customers:
        orders = [number for number in customers.map(buy, range(20)) if number]
    assert len(set(orders)) == len(orders) == 5
    assert shop.product(lamp).stock == 0


def test_order_of_nothing_is_rolled_back(shop, lamp):
    with pytest.raises(psycopg.errors.CheckViolation):
        shop.place_order(lamp, 0)
    assert shop.product(lamp).stock == 5


def test_price_is_cached_for_a_while(shop, lamp):
    assert shop.price(lamp) == 250
    shop.database.execute("UPDATE products SET price = 1 WHERE name = %s", (lamp,))
    assert shop.price(lamp) == 250
    assert 0 < shop.cache.ttl(lamp) <= PRICE_CACHED_SECONDS


def test_new_price_replaces_the_cached_one(shop, lamp):
    assert shop.price(lamp) == 250
    shop.change_price(lamp, 300)
    assert shop.price(lamp) == 300

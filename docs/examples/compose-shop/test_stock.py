"""Tests of the stock with real servers in containers. Even `pytest -n 4` starts each only once."""

from uuid import uuid4

import pytest
from stock import SoldOutError


@pytest.fixture
def lamp(stock):
    """The name of a product with two pieces, for this test alone."""
    name = f"lamp-{uuid4()}"
    stock.add(name, 2)
    return name


def test_new_product_is_in_stock(stock, lamp):
    assert stock.pieces(lamp) == 2


def test_sold_piece_is_gone(stock, lamp):
    stock.sell(lamp)
    assert stock.pieces(lamp) == 1


def test_more_than_there_is_cannot_be_sold(stock, lamp):
    stock.sell(lamp)
    stock.sell(lamp)
    with pytest.raises(SoldOutError):
        stock.sell(lamp)
    assert stock.pieces(lamp) == 0


def test_number_of_pieces_is_cached_until_a_sale(stock, lamp):
    assert stock.pieces(lamp) == 2
    stock.database.execute("UPDATE stock SET pieces = 9 WHERE product = %s", (lamp,))
    assert stock.pieces(lamp) == 2
    stock.sell(lamp)
    assert stock.pieces(lamp) == 8

"""A small shop that stores products and orders in PostgreSQL and caches prices in Redis."""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.rows import namedtuple_row
from redis import Redis

SCHEMA = """
CREATE TABLE products (
    name  text PRIMARY KEY,
    price integer NOT NULL CHECK (price > 0),
    stock integer NOT NULL CHECK (stock >= 0)
);
CREATE TABLE orders (
    number   serial PRIMARY KEY,
    product  text NOT NULL REFERENCES products,
    quantity integer NOT NULL CHECK (quantity > 0),
    total    integer NOT NULL
);
"""

PRICE_CACHED_SECONDS = 60


class UnknownProductError(LookupError):
    """The shop has no product with this name."""


class OutOfStockError(Exception):
    """More was ordered than is in stock. Nothing was changed."""


@contextmanager
def open_shop():
    """Open the shop on the servers given by `DATABASE_URL` and `REDIS_URL`."""
    with (
        psycopg.connect(
            os.environ["DATABASE_URL"], autocommit=True, row_factory=namedtuple_row
        ) as database,
        Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as cache,
    ):
        yield Shop(database, cache)


@dataclass(frozen=True)
class Shop:
    """Sells products. Prices are in cents."""

    database: psycopg.Connection
    cache: Redis

    def add_product(self, name, *, price, stock):
        """Add a product to the catalogue."""
        self.database.execute("INSERT INTO products VALUES (%s, %s, %s)", (name, price, stock))

    def remove_product(self, name):
        """Remove a product, its orders and its cached price."""
        with self.database.transaction():
            self.database.execute("DELETE FROM orders WHERE product = %s", (name,))
            self.database.execute("DELETE FROM products WHERE name = %s", (name,))
        self.cache.delete(name)

    def product(self, name):
        """Return the price and stock of a product from the database."""
        product = self.database.execute(
            "SELECT price, stock FROM products WHERE name = %s", (name,)
        ).fetchone()
        if product is None:
            raise UnknownProductError(name)
        return product

    def price(self, name):
        """Return the unit price of a product, from the cache if possible."""
        price = self.cache.get(name)
        if price is None:
            price = self.product(name).price
            self.cache.set(name, price, ex=PRICE_CACHED_SECONDS)
        return int(price)

    def change_price(self, name, price):
        """Change the price of a product for future orders."""
        self.database.execute("UPDATE products SET price = %s WHERE name = %s", (price, name))
        self.cache.delete(name)

    def place_order(self, name, quantity):
        """Order `quantity` units of a product, all or nothing, and return the order."""
        with self.database.transaction():
            taken = self.database.execute(
                "UPDATE products SET stock = stock - %(quantity)s"
                " WHERE name = %(name)s AND stock >= %(quantity)s RETURNING price",
                {"name": name, "quantity": quantity},
            ).fetchone()
            if taken is None:
                raise OutOfStockError(f"{self.product(name).stock} left, {quantity} ordered")
            return self.database.execute(
                "INSERT INTO orders (product, quantity, total) VALUES (%s, %s, %s) RETURNING *",
                (name, quantity, quantity * taken.price),
            ).fetchone()

    def order(self, number):
        """Return the order with this number as it was placed, or None if it does not exist."""
        return self.database.execute("SELECT * FROM orders WHERE number = %s", (number,)).fetchone()

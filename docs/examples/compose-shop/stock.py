"""The stock of a shop: PostgreSQL stores how many pieces there are, and Redis caches it."""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from redis import Redis

TABLE = "CREATE TABLE stock (product text PRIMARY KEY, pieces integer CHECK (pieces >= 0))"


class SoldOutError(Exception):
    """No piece is left."""


@contextmanager
def open_stock():
    """Open the stock on the servers given by `DATABASE_URL` and `REDIS_URL`."""
    with (
        psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as database,
        Redis.from_url(os.environ["REDIS_URL"]) as cache,
    ):
        yield Stock(database, cache)


@dataclass(frozen=True)
class Stock:
    database: psycopg.Connection
    cache: Redis

    def add(self, product, pieces):
        """Add a product."""
        self.database.execute("INSERT INTO stock VALUES (%s, %s)", (product, pieces))

    def pieces(self, product):
        """Return how many pieces there are, from the cache if possible."""
        pieces = self.cache.get(product)
        if pieces is None:
            found = self.database.execute("SELECT pieces FROM stock WHERE product = %s", (product,))
            (pieces,) = found.fetchone()
            self.cache.set(product, pieces, ex=60)
        return int(pieces)

    def sell(self, product):
        """Take one piece from the stock."""
        try:
            self.database.execute(
                "UPDATE stock SET pieces = pieces - 1 WHERE product = %s", (product,)
            )
        except psycopg.errors.CheckViolation:
            raise SoldOutError(product) from None
        self.cache.delete(product)

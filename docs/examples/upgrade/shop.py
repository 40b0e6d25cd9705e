"""The orders of a small shop, in PostgreSQL. Does not use pytest-plan."""

import psycopg


def create_tables(url):
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TABLE orders (number serial PRIMARY KEY, item text, pieces integer)"
        )


def order(url, item, pieces):
    """Store an order; return its number."""
    statement = "INSERT INTO orders (item, pieces) VALUES (%s, %s) RETURNING number"
    with psycopg.connect(url) as connection:
        return connection.execute(statement, (item, pieces)).fetchone()[0]


def orders(url):
    """Return all orders: number, item and pieces."""
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT number, item, pieces FROM orders").fetchall()

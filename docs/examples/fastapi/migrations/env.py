"""Runs the migrations on the database that `DATABASE_URL` names. Alembic executes this file."""

from alembic import context
from library import open_database

with open_database().connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

"""The stores: SQLite on one machine, Redis or Valkey, and PostgreSQL."""

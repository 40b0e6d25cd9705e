"""The tables of a SQL store, and the statements that read and write them."""

from __future__ import annotations

TABLES = (
    "CREATE TABLE plan_environment (name TEXT PRIMARY KEY, id TEXT NOT NULL, "
    "epoch BIGINT NOT NULL, version BIGINT NOT NULL, done_at BIGINT NOT NULL, "
    "record TEXT NOT NULL)",
    "CREATE TABLE plan_row (name TEXT, kind TEXT, key TEXT, version BIGINT NOT NULL, text TEXT, "
    "PRIMARY KEY (name, kind, key))",
    "CREATE INDEX plan_row_version ON plan_row (name, version)",
    "CREATE TABLE plan_answer (name TEXT, id TEXT, at BIGINT NOT NULL, answer TEXT NOT NULL, "
    "PRIMARY KEY (name, id))",
)
PUT = (
    "INSERT INTO plan_row (name, kind, key, version, text) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (name, kind, key) DO UPDATE SET version = excluded.version, text = excluded.text"
)
SAVE = (
    "UPDATE plan_environment SET id = ?, epoch = ?, version = ?, done_at = ?, record = ? "
    "WHERE name = ?"
)
VERSION = (
    "SELECT version FROM plan_row WHERE name = ? AND kind = ? AND key = ? AND text IS NOT NULL"
)
RESERVE = (
    "INSERT INTO plan_environment (name, id, epoch, version, done_at, record) "
    "VALUES (?, '', 0, 0, 0, '') ON CONFLICT (name) DO NOTHING"
)
READ = (
    "SELECT e.id, e.epoch, e.done_at, r.kind, r.key, r.version{text} FROM plan_environment e "
    "LEFT JOIN plan_row r ON r.name = e.name AND r.text IS NOT NULL AND {which} "
    "WHERE e.name = ? ORDER BY r.version, r.key"
)

"""Connects the controller and its workers, with one execnet channel for each worker.

The controller holds the State and makes the decisions; `Server` answers the requests of `Client`.
Importing a module of this package does not import pytest-xdist. The package uses `run` and the
rooms below it.
"""

"""The line between the controller and its workers, one execnet channel for each worker.

The State and the decisions are in the controller; `Server` answers what `Client` asks. Importing a
module of this room does not import pytest-xdist. It uses `run` and the rooms below it.
"""

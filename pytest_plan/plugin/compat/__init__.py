"""Parts of pytest, pytest-xdist and pytest-timeout that are used beyond their documented API.

There is one module for each of them. Every use has a fallback, so that a new version that moves an
internal costs a convenience and not a run. Only this room imports `_pytest`. It uses no other room.
"""

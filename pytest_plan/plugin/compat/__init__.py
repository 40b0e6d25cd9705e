"""Gives access to internals of pytest, of pytest-xdist and of other plugins.

Each plugin has its own module. Every use of an internal has a fallback: if a new version
changes the internal, a convenience is lost, but the run still works. Only this package imports
`_pytest`. It uses the engine and no other room.
"""

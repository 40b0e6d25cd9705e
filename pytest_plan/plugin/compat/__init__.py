"""Gives access to internals of pytest, pytest-xdist and pytest-timeout.

Each of the three has its own module. Every use of an internal has a fallback: if a new version
changes the internal, a convenience is lost, but the run still works. Only this package imports
`_pytest`. It uses no other package.
"""

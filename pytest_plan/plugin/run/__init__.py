"""Runs the plan in the process that owns it: a solo process or the controller.

This package provisions and cleans up, keeps and reuses environments, starts the reaper that watches
this process, and cleans up the environments of dead runs. A worker imports none of it. This package
uses `items` and the packages below it.
"""

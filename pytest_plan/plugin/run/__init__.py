"""Runs the plan in the process that owns it: a solo process or the controller.

This room provisions and cleans up, keeps and reuses environments, starts the reaper that watches
this process, and cleans up the environments of dead runs. A worker imports none of it. This room
uses `items` and the rooms below it.
"""

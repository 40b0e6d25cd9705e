"""The run of the plan, in the process that owns it: solo or controller.

It provisions and cleans up, keeps and reuses environments, has the reaper watch over this process,
and recovers the environments of dead runs. A worker imports nothing of it. This room uses `items`
and the rooms below it.
"""

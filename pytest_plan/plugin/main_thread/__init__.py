"""The plugin's own code on pytest's main thread: its output, its signals, and the plan's limit.

Nothing here knows which steps a plan has. This room uses `compat` and `options`.
"""

"""Controls pytest's main thread: the output of steps, signals, and the plan's limit.

This package does not know which steps a plan has. It uses `compat` and `interface`.
"""

"""Holds the plan of this process, and implements its role: solo, controller or worker.

`PlanSession` connects the parts of the plugin, and `lookup` finds it in `config.stash`. The roles
implement pytest's hooks. This package uses all other packages of the plugin except `commands`, and
only `commands` uses it.
"""

"""Turns marked functions, marked classes and calls of `add_step` into declared steps.

`DeclaredSteps` holds all steps of this process and checks them together. This package uses `compat`
and `interface`.
"""

"""Runs a plan: provisions its steps, then cleans them up in reverse order.

The flow of a step decides what the step does next, and never blocks. The executor runs the flows of
many steps at once, in the order given by a phase. This package may import from `calls`, `shared`,
`journal`, `definition`, `processes` and `model`.
"""

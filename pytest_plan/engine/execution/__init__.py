"""Runs a plan: the steps forward, then their cleanup in reverse.

A step's flow decides what happens next and never blocks. The executor runs the flows of many steps
at once, in the order that a phase gives. The room may import from `calls`, `shared`, `journal`,
`definition`, `processes` and `model`.
"""

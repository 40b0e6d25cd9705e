"""What a plan declares: steps, their options and hooks, and the edges between them.

Everything is checked here, before any step runs; a mistake raises `PlanDefinitionError`. Nothing in
this room runs a step. It may use only `model`.
"""

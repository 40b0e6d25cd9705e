"""The definition of a plan: its steps, their options and hooks, and the edges between them.

This package checks the whole plan before any step runs, and raises `PlanDefinitionError` if the
plan is invalid. It never runs a step. It may import only from `model`.
"""

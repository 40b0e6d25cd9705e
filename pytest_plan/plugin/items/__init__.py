"""Finds the steps that a test needs, decides whether it can run, and defines `PlanHandle`.

The code here runs in solo processes, controllers and workers alike. It accesses the plan only
through `PlanView`. This package uses `declaring`, `main_thread`, `compat` and `interface`.
"""

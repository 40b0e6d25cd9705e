"""Tests: which steps a test needs, why it cannot run, and the fixture `plan`.

The code here runs in solo processes, controllers and workers alike. It sees the plan only through
`PlanView`. This room uses `declaring`, `main_thread`, `compat` and `options`.
"""

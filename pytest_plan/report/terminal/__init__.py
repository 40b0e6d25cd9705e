"""The plan on the terminal: live lines, reports of failed steps, the summary table, `--plan-show`.

It also formats tracebacks for the report files. It uses no other part of `pytest_plan.report`.
"""

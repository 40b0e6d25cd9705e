"""The plan on the terminal: live lines, reports of failed steps, the summary table, `--plan-show`.

Report files use its tracebacks as well. It imports nothing else from `pytest_plan.report`.
"""

"""Shows the plan in the terminal: live lines, failed steps, the summary table, `--plan-show`.

Report files also use the tracebacks of this package. From `pytest_plan.report`, it imports only
`verdict`.
"""

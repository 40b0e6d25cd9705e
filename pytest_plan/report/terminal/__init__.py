"""Shows the plan in the terminal: live lines, failed steps, the summary table, `--plan-show`.

Report files also use the tracebacks of this package. It imports nothing else from
`pytest_plan.report`.
"""

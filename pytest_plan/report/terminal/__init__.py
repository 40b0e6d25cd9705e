"""The plan on the terminal: live lines, reports of failed steps, the summary table, `--plan-show`.

It also formats tracebacks for the report files. This room uses no other room of `report`.
"""

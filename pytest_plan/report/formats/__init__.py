"""The file formats of `--plan-report`: JSON, Markdown, Mermaid, Chrome trace and HTML.

Each format is a module with a function `text`, which turns an `Account` into the content of the
file. `chart` and `drawing` compute the geometry of the HTML page. From `pytest_plan.report`, the
formats import only `account`.
"""

"""Reports on a run: on the terminal, in report files, in JUnit XML and as OpenTelemetry spans.

Reports listen to the engine and to pytest; the engine never imports them, and the plugin loads
them by name. Every report asks `verdict` how the run has ended. `files` may import `collect` and
`formats`; these and `reporters` may import `account` and `terminal`.
"""

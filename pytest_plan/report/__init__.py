"""Reports on a run: on the terminal, in report files, in JUnit XML and as OpenTelemetry spans.

Reports listen to the engine and to pytest; the engine never imports them, and the plugin loads
them by name. `files` and `junit` may import `collect` and `formats`, which may import `account`
and `terminal`. `otel` imports no other module of this package.
"""

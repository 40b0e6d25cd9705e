"""Reports on a run: on the terminal, in report files, in JUnit XML and as OpenTelemetry spans.

Reports listen to the engine and to pytest; the engine never imports them, and the plugin loads
them by name. `files` may import `collect` and `formats`; these and `test_reports` may import
`account` and `terminal`. `junit` and `otel` import no other module of this package.
"""

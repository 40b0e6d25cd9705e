"""Shows what happens in a plan: on the terminal, in report files, in JUnit XML and as traces.

Reports listen to the engine and to pytest; the engine never imports them, and the plugin loads
them by name. `files` and `junit` use `collect` and `formats`, which use `account` and `terminal`.
`otel` uses no other module of this package.
"""

"""The files in `plan_dir` that outlive the run, other than journals.

This package uses the engine and `interface`.
"""

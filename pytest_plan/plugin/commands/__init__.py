"""Implements the commands that run no tests, such as `--plan-cleanup`.

A command replaces the role of the process. This package uses all other packages of the plugin, and
no other package uses it.
"""

"""Implements `--plan-doctor`: the checks, by what they check, and the command that prints them."""

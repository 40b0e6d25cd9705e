"""Gives tests to workers in waves, each with a scheduler of the kind that the user has chosen."""

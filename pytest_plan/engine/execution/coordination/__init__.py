"""Runs the flows of many steps at once, on the caller's thread or on a thread of their own."""

"""Stops a running call: escalates step by step, and raises exceptions in the thread of a call."""

"""Writes a journal: which values of the State are due, and when a transaction is on the disk."""

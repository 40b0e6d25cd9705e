"""The rules of a shared environment: the role of each run, and the writes that are refused."""

"""The durable record of an environment, for a later process to read.

A run writes to its `Journal` what has begun and how to undo it; `NullJournal` is the interface, for
runs without one. The reader returns a checked journal and runs nothing from it. This room may use
`definition`, `processes` and `model`.
"""

"""The journal: a durable record of an environment that a later process can read.

A run records in its `Journal` which steps have begun and how to undo them. `NullJournal` defines
the interface and is used by runs without a journal. The reader checks a journal and runs no code
from it. This package may import from `definition`, `processes` and `model`.
"""

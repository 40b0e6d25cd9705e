"""The facilities that all steps of a run share.

These are the State and its store, the logs, the folders, the free ports and the environment
variables. `RunFacts` holds all of them and the facts about the run. This package may import from
`journal`, `definition`, `processes` and `model`.
"""

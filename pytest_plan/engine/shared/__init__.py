"""The facilities that all steps of a run share.

They are the State and its store, the logs, the folders, free ports and environment variables.
`RunFacts` collects them with the facts about the run. The room may import from `journal`,
`definition`, `processes` and `model`.
"""

"""The engine, which runs plans. It imports neither pytest nor pluggy, so plain scripts can use it.

The packages, from the ground up:

- `model`: the vocabulary of a run, such as outcomes, events, results and errors.
- `definition`: steps and their options, checked before anything runs.
- `processes`: the programs that steps start, and their process trees.
- `journal`: the durable record of an environment.
- `shared`: the facilities that all steps of a run share, such as the State, logs and folders.
- `calls`: one call of a hook, from its arguments to its result.
- `execution`: one run of a plan, which provisions steps and then cleans them up in reverse order.
- `environments`: environments that outlive the process that created them, and their recovery.
- `plan.py`: `Plan`, the public entry point.

A room imports only from rooms listed above it, even for type annotations. `definition` and
`processes` are on the same floor and do not import each other. tests/test_layers.py checks this.
"""

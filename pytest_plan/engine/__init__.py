"""The engine runs plans. It knows neither pytest nor pluggy, so a plain script can use it.

The rooms, from the ground up:

- `model`: the vocabulary of a run, such as outcomes, events, results and errors.
- `definition`: steps and their options, checked before anything runs.
- `processes`: the programs that steps start, and their process trees.
- `journal`: the durable record of an environment.
- `shared`: what all steps of a run share, such as the State, logs and folders.
- `calls`: one call of a hook, from its arguments to its end.
- `execution`: the run of a plan, forward and then in reverse.
- `environments`: environments that outlive their process, and their recovery.
- `plan.py`: `Plan`, the public entry point.

A room imports only from rooms listed above it, even for type annotations. `definition` and
`processes` are on the same floor and do not import each other. tests/test_layers.py checks this.
"""

"""One call of a hook: its `ctx`, how its function runs, and how the engine stops it.

A call runs on a thread of the engine, which stops it in stages if necessary. The call registers
what must be undone later on the undo stack of its step. This package may import from `shared`,
`journal`, `definition`, `processes` and `model`.
"""

"""One call of a hook: the `ctx` that it gets, how its function runs, and how it is stopped.

A call runs on a thread of our own and is stopped in stages. What it must undo later goes on the
undo stack of its step. The room may import from `shared`, `journal`, `definition`, `processes` and
`model`.
"""

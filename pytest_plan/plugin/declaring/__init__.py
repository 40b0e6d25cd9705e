"""How marked functions, marked classes and code become declared steps.

`DeclaredSteps` has all steps of this process and checks them together. This room uses `compat` and
`options`.
"""

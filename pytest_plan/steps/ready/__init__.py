"""The conditions that a server can be required to meet before its step goes on.

Each module has the function that users call, and the condition that it returns. This room uses only
the engine.
"""

"""The vocabulary of the engine: outcomes, results, errors, events, durations and time.

These modules describe a run but do not perform it. Every other room may import from this room,
which imports from no other room.
"""

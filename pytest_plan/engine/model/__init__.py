"""The vocabulary of the engine: outcomes, results, errors, events, durations and time.

These modules describe a run and perform none of it. Every other room may import this one; it
imports no other room.
"""

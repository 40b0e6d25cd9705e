"""The vocabulary of the engine: outcomes, results, errors, events, durations and time.

These modules describe a run but do not perform it. Every other package may import from this
package, which imports from no other package.
"""

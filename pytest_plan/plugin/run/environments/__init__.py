"""The environment of a run: claimed, reused, kept, and recovered after its owner has died."""

"""One environment for many runs: the store through which runs on several machines share it."""

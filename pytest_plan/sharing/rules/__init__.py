"""The rules of a shared environment: who joins as what, and which write is refused."""

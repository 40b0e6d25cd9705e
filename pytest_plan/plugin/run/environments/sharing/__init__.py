"""A run's part in a shared environment: as its owner, or as a member. Only such runs import it."""
